"""Jobs on pipelines: several operators and formulas fused to one result."""

"""Every published figure comes from here: one command a benchmark, results with machine and versions in results/."""

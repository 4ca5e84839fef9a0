"""The algorithm layer: operators, the units of calculation that sink to the data."""

"""Sources into the lake."""

"""Jobs that bring source systems into the lake."""

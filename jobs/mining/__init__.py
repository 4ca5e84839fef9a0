"""Work lists for grid analysts: what to look at first, with what is at stake and what to do."""

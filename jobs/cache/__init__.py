"""Jobs on the cache of what was already calculated."""

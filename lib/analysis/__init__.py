"""The analysis layer: preloading, blocks, and the cache of what was already calculated."""

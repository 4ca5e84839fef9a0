"""A demo landing: files of seven source systems in the formats of docs/sources.md, and apart from them the truth."""

"""One operator a file; the registry finds them here."""

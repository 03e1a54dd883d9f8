"""A package, for other distributions have a top-level one of this name."""

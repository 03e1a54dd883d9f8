"""What the canonical spectrum of a flow is worth: the tables of docs/spectrum.md. See ``__main__``."""

"""Measurements of the canonical spectrum of flows: the tables of docs/spectrum.md. See ``__main__``."""

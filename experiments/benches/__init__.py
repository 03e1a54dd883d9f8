"""Measurements behind the figures in README and docs, one command each."""

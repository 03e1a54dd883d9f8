"""Measurements of steering: see ``python -m experiments.benches.steering --help``."""

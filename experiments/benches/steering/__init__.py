"""What steering is worth: see ``python -m experiments.benches.steering --help``."""

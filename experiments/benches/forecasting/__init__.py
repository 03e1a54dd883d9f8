"""What forecasts are worth: see ``python -m experiments.benches.forecasting --help``."""

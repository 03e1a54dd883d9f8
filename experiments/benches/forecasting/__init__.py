"""Measurements of forecasts: see ``python -m experiments.benches.forecasting --help``."""

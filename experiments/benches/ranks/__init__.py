"""Fits on several ranks: their speed, their agreement, and the cost of summing gradients."""

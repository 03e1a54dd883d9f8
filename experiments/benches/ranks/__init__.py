"""Fits that several ranks share: how much faster, how alike, and what summing gradients costs."""

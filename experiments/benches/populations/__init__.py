"""Measurements of populations through snapshots, with one snapshot held out."""

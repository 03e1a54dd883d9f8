"""Populations through snapshots: what holding one of them out says."""

"""Other one-step samplers, to compare with on equal terms."""

from .consistency_flow import ConsistencyFlow

__all__ = ["ConsistencyFlow"]

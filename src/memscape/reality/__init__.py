"""What others say, held against what this package computes."""

from memscape.reality.claims import Claim, claims
from memscape.reality.measured import Measurement, measurements

__all__ = ["Claim", "Measurement", "claims", "measurements"]

"""Search: what fits, the largest input, grids, the plan."""

from memscape.planner.fits import layout_of, solve, what_fits
from memscape.planner.sweeps import sensitivity, sweep

__all__ = ["layout_of", "sensitivity", "solve", "sweep", "what_fits"]

"""Search: the plan, what fits, the largest input, grids, advice."""

from memscape.planner.advice import advise
from memscape.planner.fits import layout_of, solve, what_fits
from memscape.planner.plans import plan
from memscape.planner.sweeps import sensitivity, sweep

__all__ = ["advise", "layout_of", "plan", "sensitivity", "solve", "sweep", "what_fits"]

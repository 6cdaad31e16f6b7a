"""Moved to memscape.measure; this name goes when nobody's script uses it any more."""
# ruff: noqa: F401, F403
from memscape.measure.course import *
from memscape.measure.ledger import *
from memscape.measure.subject import *
from memscape.measure.witness import *

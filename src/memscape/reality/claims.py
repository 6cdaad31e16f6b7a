"""An article of 2024 about the memory of language models, claim by claim (`data/article.csv`).

The claims are in our own words. Our number is never stored: the row names a function and its arguments, and the
package is asked each time.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from memscape import tables
from memscape.reality.ours import ours

VERDICTS = ("right", "imprecise", "outdated", "wrong")
NEAR = 0.05  # what "about" allows


@dataclass(frozen=True)
class Claim:
    """A claim of the article beside our number; `theirs` and `ours` are None for one without a number.

    `relation` says how they are to be compared: "about" (within 5 %), "enough" (theirs has to hold ours), "at most",
    "at least", or "between" `theirs` and `theirs_high`. `read_as` says how words, or another unit, became `theirs`.
    """

    name: str
    section: str
    claim: str
    theirs: float | None
    theirs_high: float | None
    ours: float | None
    unit: str
    relation: str
    read_as: str
    verdict: str
    why: str
    source: str

    @property
    def holds(self) -> bool | None:
        """Whether the numbers agree as the relation asks; None for a claim without numbers."""
        if self.ours is None or self.theirs is None:
            return None
        if self.relation == "about":
            return abs(self.ours / self.theirs - 1) <= NEAR
        if self.relation in ("enough", "at most"):
            return self.ours <= self.theirs
        if self.relation == "at least":
            return self.ours >= self.theirs
        return self.theirs_high is not None and self.theirs <= self.ours <= self.theirs_high


@cache
def claims() -> tuple[Claim, ...]:
    """Return every claim of the article with our number for it, in the order of the article.

    Units: as each row says. Sources: as each row says.
    """
    return tuple(_claim(row) for row in tables.rows("article"))


def _claim(row: tables.Row) -> Claim:
    theirs, high = (tables.number("article", row, column) for column in ("theirs", "theirs_high"))
    number = ours(row["ours"], row["unit"]) if row["ours"] else None
    words = (row[name] for name in ("unit", "relation", "read_as", "verdict", "why", "source"))
    return Claim(row["id"], row["section"], row["claim"], theirs, high, number, *words)

"""Stage: a part of a model that runs once or several times in a row, each time alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from memscape.forward.passes import Pass
from memscape.forward.tape import Tensor

Step = Callable[[Pass, Tensor], Tensor]


@dataclass(frozen=True)
class Stage:
    """A part of the model that runs `count` times in a row, each time alike; a layer can be checkpointed."""

    name: str
    run: Step
    count: int = 1
    layer: bool = True

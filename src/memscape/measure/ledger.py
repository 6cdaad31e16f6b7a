"""How much is alive: each storage from its birth to its end, or the counters of CUDA's allocator.

Needs torch (extra `measure`).
"""

from __future__ import annotations

import weakref
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from memscape.measure.witness import Kept, Places


class Ledger(TorchDispatchMode):
    """Notes when each storage is made and freed; parameters and what else is `apart` is not counted."""

    def __init__(self, places: Places, apart: set[int]) -> None:
        """Start empty."""
        super().__init__()
        self.places, self.apart = places, apart
        self.alive: dict[int, int] = {}
        self.events: list[tuple[int, Kept | None]] = []
        self.live = self.peak = self.peak_at = self.number = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and note the storages of its results."""
        result = func(*args, **(kwargs or {}))
        for leaf in pytree.tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._note(leaf, func)
        return result

    def _note(self, tensor: torch.Tensor, func: Any) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self.alive or key in self.apart or not size:
            return
        self.number += 1
        self.alive[key] = self.number
        self.events.append((self.number, self._described(tensor, func, size)))
        self.live += size
        weakref.finalize(storage, self._freed, key, size)
        if self.live > self.peak:
            self.peak, self.peak_at = self.live, len(self.events)

    def _described(self, tensor: torch.Tensor, func: Any, size: int) -> Kept:
        node = torch._C._current_autograd_node()
        where, word = self.places.now, str(func).removeprefix("aten.")
        if node is not None:
            where, word = self.places.of(node), f"{type(node).__name__}: {word}"
        return Kept(where, word, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."), size)

    def _freed(self, key: int, size: int) -> None:
        self.events.append((self.alive.pop(key), None))
        self.live -= size

    def restart(self) -> None:
        """Begin a new phase: its peak is at least what is alive now."""
        self.peak, self.peak_at = self.live, len(self.events)

    def at_peak(self) -> list[Kept]:
        """Return what was alive at the last phase's peak, largest first."""
        alive: dict[int, Kept] = {}
        for number, kept in self.events[: self.peak_at]:
            if kept is None:
                del alive[number]
            else:
                alive[number] = kept
        return sorted(alive.values(), key=lambda each: -each.bytes)

    @property
    def reserved(self) -> None:
        """Nothing is reserved where no allocator keeps blocks."""
        return None

    @property
    def rounding(self) -> int:
        """Storages are counted as they are."""
        return 0


class Gauge:
    """CUDA's own counters, above what was allocated when it began."""

    def __init__(self, device: str) -> None:
        """Count from now."""
        self.device = device
        torch.cuda.synchronize(device)
        self.start = torch.cuda.memory_allocated(device)

    def _stat(self, name: str) -> int:
        return int(torch.cuda.memory_stats(self.device).get(name, 0))

    def restart(self) -> None:
        """Begin a new phase."""
        torch.cuda.synchronize(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)

    @property
    def peak(self) -> int:
        """The highest allocation of this phase."""
        torch.cuda.synchronize(self.device)
        return int(torch.cuda.max_memory_allocated(self.device)) - self.start

    @property
    def rounding(self) -> int:
        """What the allocator added at that height to round each block up."""
        requested = self._stat("requested_bytes.all.peak")
        return int(torch.cuda.max_memory_allocated(self.device)) - requested if requested else 0

    @property
    def reserved(self) -> int:
        """What the allocator took from the device in this phase."""
        return int(torch.cuda.max_memory_reserved(self.device))

    def at_peak(self) -> list[Kept]:
        """The counters do not say what is alive."""
        return []


Meter = Ledger | Gauge


def following(meter: Meter) -> AbstractContextManager[Any]:
    """Return what the run goes under."""
    return meter if isinstance(meter, Ledger) else nullcontext()

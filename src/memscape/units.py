"""Bytes, GB, GiB and counts: conversion and wording, once.

Inside the package every amount is in bytes. GB is 1e9 bytes, GiB is 2**30 bytes; they differ by 7.4 %, which is enough
to decide whether a model fits, so an amount of memory is never shown without one of the two names.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from memscape.problem import chosen

GB = 10**9
GIB = 2**30
MIB = 2**20

_DECIMAL = ("B", "kB", "MB", "GB", "TB", "PB", "EB")
_BINARY = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
SYSTEMS = {"GB": (1000, _DECIMAL), "GiB": (1024, _BINARY)}
_shown: ContextVar[str] = ContextVar("shown", default="GB")


@contextmanager
def shown_in(system: str) -> Iterator[None]:
    """Say amounts in "GB" or in "GiB" where nothing else is asked for, as long as this lasts.

    >>> with shown_in("GiB"):
    ...     amount(811706777600)
    '756 GiB'
    """
    token = _shown.set(chosen("unit system", system, SYSTEMS))
    try:
        yield
    finally:
        _shown.reset(token)


def shown() -> str:
    """Return the system that amounts are said in: "GB" or "GiB"."""
    return _shown.get()


def other() -> str:
    """Return the system that amounts are not said in."""
    return next(system for system in SYSTEMS if system != shown())


def amount(size_bytes: float, system: str | None = None, digits: int = 3) -> str:
    """Return an amount of memory with `digits` significant digits in the decimal ("GB") or binary ("GiB") system.

    Without a system it is the one that is shown now, see `shown_in`; "GB" where nobody has chosen.

    >>> amount(811706777600), amount(811706777600, "GiB"), amount(512)
    ('812 GB', '756 GiB', '512 B')
    """
    base, names = SYSTEMS[chosen("unit system", system or shown(), SYSTEMS)]
    return _scaled(size_bytes, base, names, digits)


def both(size_bytes: float, digits: int = 3) -> str:
    """Return an amount in both systems, the one that is shown first: `812 GB (756 GiB)`."""
    return f"{amount(size_bytes, digits=digits)} ({amount(size_bytes, other(), digits)})"


def scales() -> tuple[tuple[int, str], ...]:
    """Return the units of the system that is shown, each with its bytes, from MB on: what an axis may count in."""
    base, names = SYSTEMS[shown()]
    return tuple((base**power, name) for power, name in enumerate(names) if power >= 2)


def gb(size_bytes: float) -> float:
    """Return bytes in GB (1e9 bytes)."""
    return size_bytes / GB


def gib(size_bytes: float) -> float:
    """Return bytes in GiB (2**30 bytes)."""
    return size_bytes / GIB


def scaled(size_bytes: float) -> float:
    """Return bytes in GB, or in GiB where that is shown: the number that an axis of that name has."""
    return gib(size_bytes) if shown() == "GiB" else gb(size_bytes)


def count(value: float, digits: int = 3) -> str:
    """Return a count in words that fit a headline: `70.6 billion`; below a million, every digit.

    >>> count(70553706496), count(131072)
    ('70.6 billion', '131,072')
    """
    if abs(value) < 10**6:
        return exact(value)
    return _scaled(value / 10**6, 1000, ("million", "billion", "trillion", "quadrillion"), digits)


def exact(value: float) -> str:
    """Return every digit, in groups of three: `405,853,388,800`; a fraction keeps what it has, an array its range."""
    if getattr(value, "shape", ()):
        low, high = value.min(), value.max()  # type: ignore[attr-defined]
        return f"[{exact(low)} … {exact(high)}]"
    if isinstance(value, int) or float(value).is_integer():
        return f"{int(value):,}"
    return f"{value:,.6g}"


def seconds(value: float, digits: int = 3) -> str:
    """Return a time with `digits` significant digits in the unit that suits it.

    >>> seconds(0.00571), seconds(12.3), seconds(5400), seconds(400000)
    ('5.71 ms', '12.3 s', '1.5 h', '4.63 days')
    """
    for size, name in ((86400.0, "days"), (3600.0, "h"), (1.0, "s"), (1e-3, "ms")):
        if value >= size or name == "ms":
            return f"{float(f'{value / size:.{digits}g}'):,g} {name}"
    return ""


def _scaled(value: float, base: int, names: tuple[str, ...], digits: int) -> str:
    step = 0
    while step + 1 < len(names) and abs(round(value, digits)) >= base:
        value, step = value / base, step + 1
    whole = len(str(int(abs(value))))
    if step == 0 and float(value).is_integer():
        return f"{int(value):,} {names[0]}"
    rounded = f"{value:,.{max(digits - whole, 0)}f}"
    return f"{rounded} {names[step]}"

"""What is said when an input cannot be used: one sentence, fit for a page."""

from __future__ import annotations

from collections.abc import Collection, Iterable


class Problem(ValueError):
    """An input that cannot be used; the message says what was found, what was expected and what to do."""


def nearest(name: str, known: Iterable[str], most: int = 3) -> str:
    """Return the known names closest to `name` as a phrase, `"a", "b" or "c"`; all of them if none is close."""
    import difflib

    names, asked = sorted(known), name.lower()
    folded = {each.lower(): each for each in reversed(names)}
    hits = [each for each in folded if asked and asked in each][::-1]
    hits += difflib.get_close_matches(asked, list(folded), n=most, cutoff=0.5)
    return one_of([folded[hit] for hit in dict.fromkeys(hits)][:most] or names)


def one_of(names: Iterable[object], most: int = 12) -> str:
    """Join names as a choice: `"a", "b" or "c"`; a long list is cut and says so."""
    quoted = [f'"{name}"' if isinstance(name, str) else str(name) for name in names]
    if len(quoted) > most:
        return ", ".join(quoted[:most]) + f" or {len(quoted) - most} more"
    return " or ".join([", ".join(quoted[:-1]), quoted[-1]] if len(quoted) > 1 else quoted)


def chosen(kind: str, name: object, known: Collection[str]) -> str:
    """Return the known name that is meant, whatever its letters' case; refuse any other with the nearest ones."""
    if not isinstance(name, str):
        raise unknown(kind, name, known)
    if name in known:
        return name
    alike = [each for each in known if each.lower() == name.lower()]
    if len(alike) == 1:
        return alike[0]
    raise unknown(kind, name, known)


def unknown(kind: str, name: object, known: Iterable[str]) -> Problem:
    """Return the problem for a name that the catalogue does not have."""
    shown = str(name)[:60]
    return Problem(f'unknown {kind} "{shown}"; did you mean {nearest(shown, known)}?')

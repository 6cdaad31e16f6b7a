"""The settings in a page's address: read as what a stranger typed, written so that a link brings the same page back."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

if TYPE_CHECKING:
    from memscape.views.controls import Control

LONGEST = 2000
MOST = 40
SHOWN = 40


def served() -> bool:
    """Return whether this kernel is one of Voilà's."""
    return "VOILA_PREHEAT" in os.environ


def awaited() -> bool:
    """Return whether this kernel was started ahead of its visitor, and learns the address only when one comes."""
    return os.environ.get("VOILA_PREHEAT") == "True"


def read() -> dict[str, str]:
    """Return the names and values in the address of this page; none outside Voilà, none if it cannot be read."""
    query = os.environ.get("QUERY_STRING", "")
    if awaited():
        from voila.utils import get_query_string

        query = get_query_string() or ""
    try:
        return dict(parse_qsl(query[:LONGEST], keep_blank_values=True, max_num_fields=MOST))
    except ValueError:
        return {}


def restore(fields: Sequence[Control], asked: Mapping[str, str]) -> list[str]:
    """Set the controls that the address names; return a sentence for each value that was not taken as it stands."""
    remarks = []
    for field in fields:
        text = asked.get(field.name)
        if text is None:
            continue
        value = field.find(text)
        if value is not None:
            field.widget.value = value
        if value is None or field.written != text:
            kind = "usual" if value is None else "nearest possible"
            remarks.append(
                f'The address asks for "{text[:SHOWN]}" as {field.widget.description}; '
                f"the {kind} value, {field.written}, is used."
            )
    return remarks


def written(fields: Sequence[Control]) -> dict[str, str]:
    """Return every control's value as it stands in an address; one that is empty is left out."""
    return {field.name: field.written for field in fields if field.written}


def others(fields: Sequence[Control], asked: Mapping[str, str]) -> dict[str, str]:
    """Return what the address holds for other pages, so that a walk through them loses no setting."""
    own = {field.name for field in fields}
    return {name: text for name, text in asked.items() if name not in own and re.fullmatch("[a-z_]{1,40}", name)}


def whole(text: str) -> int | None:
    """Return the whole number that a text is, however large; None if it is none."""
    return int(text) if re.fullmatch(r"[+-]?[0-9]{1,100}", text) else None

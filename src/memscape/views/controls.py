"""Controls: a widget with its name in the address, and what its value means."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import anywidget
import ipywidgets as widgets
import traitlets

from memscape.problem import unknown
from memscape.readers import LARGEST_CONFIG
from memscape.views import address
from memscape.views.looks import made, show

Options = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Control:
    """A widget with its name in the address: what its value means, how it is written, which value a text stands for."""

    name: str
    widget: Any
    read: Callable[[Any], Any]
    write: Callable[[Any], str]
    find: Callable[[str], Any]
    passed: bool = True  # to `calculate`; else another control reads it, or the page itself

    @property
    def value(self) -> Any:
        """The value to calculate with."""
        return self.read(self.widget.value)

    @property
    def written(self) -> str:
        """The value as it stands in an address."""
        return self.write(self.widget.value)


class Upload(anywidget.AnyWidget):
    """A field for one small file, which is read by the browser and refused there if it is large."""

    _esm = Path(__file__).with_name("upload.js")
    label = traitlets.Unicode("").tag(sync=True)
    most = traitlets.Int(LARGEST_CONFIG).tag(sync=True)


def choice(name: str, label: str, options: Options, value: str) -> Control:
    """Return a menu; an option is the words that are shown and the value that they stand for."""
    menu = made(widgets.Dropdown, options=options, value=value, description=label, tooltip="")
    return Control(name, menu, str, str, partial(_among, [known for _, known in options]))


def search(name: str, label: str, options: Options, value: str) -> Control:
    """Return a menu for many options, which is searched by typing; the words of two options must differ."""
    values, words = dict(options), {known: shown for shown, known in options}
    shown = {"options": tuple(values), "value": words[value], "description": label, "tooltip": ""}
    field = made(widgets.Combobox, **shown, ensure_option=True)

    def read(shown: str) -> str:
        if shown not in values:
            raise unknown(label.lower(), shown, values)
        return values[shown]

    return Control(name, styled(field, "search"), read, lambda shown: values.get(shown, ""), words.get)


def slider(name: str, label: str, steps: Sequence[int], value: int) -> Control:
    """Return a slider over given whole numbers, such as powers of two."""
    options = [(f"{step:,}", step) for step in steps]
    bar = made(widgets.SelectionSlider, options=options, value=value, description=label, tooltip="")
    return Control(name, bar, int, str, partial(nearest, steps))


def switch(name: str, label: str, value: bool) -> Control:
    """Return a check box."""
    box = made(widgets.Checkbox, value=value, description=label, indent=False)
    return Control(name, box, bool, lambda on: str(int(on)), {"0": False, "1": True}.get)


def text(name: str, label: str, most: int) -> Control:
    """Return a field for a few words of the reader's own."""
    field = made(widgets.Text, value="", description=label, continuous_update=False, tooltip="")
    return Control(name, field, lambda words: words[:most], lambda words: words[:most], lambda words: words[:most])


def shown_for(choice: Control, kinds: Mapping[str, Sequence[Control]]) -> None:
    """Show of the controls that belong to values of a choice those of the chosen value alone."""
    every = {field.name: field for fields in kinds.values() for field in fields}

    def follow(_change: Any = None) -> None:
        mine = {field.name for field in kinds.get(choice.value, ())}
        for name, field in every.items():
            show(field.widget, name in mine)

    choice.widget.observe(follow, names="value")
    follow()


def styled(widget: Any, style: str) -> Any:
    """Return a widget with the classes that are named."""
    for name in style.split():
        widget.add_class(name)
    return widget


def _among(known: Sequence[str], text: str) -> str | None:
    return text if text in known else None


def nearest(steps: Sequence[int], text: str) -> int | None:
    """Return the step next to a number that stands in an address; None for what is no number."""
    number = address.whole(text)
    return None if number is None else min(steps, key=lambda step: abs(step - number))

"""The page loop: read every control, calculate once, show once.

    fields = (slider("tokens", "Tokens", (1024, 2048), 1024), switch("tied", "Tied head", True))
    outputs = {"answer": Html("answer"), "chart": Chart(height=300)}
    page(fields, calculate, show, outputs)

`calculate(**values)` gets each control's value by its name; `show(result)` returns what the outputs hold: HTML for
`Html`, a figure and its words for a Chart. State lives in the controls alone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from html import escape
from typing import Any, Protocol
from urllib.parse import urlencode

import ipywidgets as widgets

from memscape import units
from memscape.breakdown import Breakdown
from memscape.problem import Problem
from memscape.views import address
from memscape.views.controls import Control, Upload, choice, styled, text
from memscape.views.exports import Answer, Exports, answer_files, kind_of, with_json
from memscape.views.folds import sent_for
from memscape.views.looks import made
from memscape.views.outputs import Chart, Html, Page

Terms = Callable[[Any], Breakdown | Mapping[str, Breakdown]]
Take = Callable[[str, int, bytes], None]
UNITS = (("GB, of 10⁹ bytes", "GB"), ("GiB, of 2³⁰ bytes", "GiB"))
LONGEST_NAME = 80
REST = 0.3  # seconds without a move
FAILED = "This could not be computed; other settings may work."


class Adapting(Protocol):
    """What lets sliders follow the other controls."""

    def adapt(self) -> str:
        """Offer what is possible now; return in words what had to move."""


def page(
    fields: Sequence[Control],
    calculate: Callable[..., Any],
    show: Callable[[Any], Mapping[str, Any]],
    outputs: Mapping[str, Any],
    upload: tuple[Upload, Take] | None = None,
    exports: Exports | None = None,
    steps: Adapting | None = None,
    terms: Terms | None = None,
    at_rest: Mapping[str, Callable[[Any], str]] | None = None,
) -> Any:
    """Return the page, with a result before anything is touched; settings in the address come first.

    A Problem becomes a sentence beside the controls while the last good result stays. `exports` are the files that the
    page hands out, by name: `{"parts.csv": function}`, where `function(result)` returns the text, when it is asked for.
    `steps` adapts sliders to the other controls before each calculation, and says what it had to move. `terms` gives
    the breakdown that the answer rests on, or several by name; it is then handed out in words, as a table, as data.
    `at_rest` are outputs that take longer than a slider may wait: they follow when the controls have come to rest.
    """
    loop = Loop(fields, calculate, show, outputs, exports or {}, steps, at_rest or {}, terms)
    laid_out = _laid_out(loop, upload and upload[0])
    loop.start()
    for field in loop.fields:
        field.widget.observe(loop.refresh, names="value")
    if upload:
        upload[0].on_msg(partial(_receive, upload[1], loop.said))
    return laid_out


class Loop:
    """What happens at every change, for all pages: read every control, calculate once, show once."""

    def __init__(
        self,
        fields: Sequence[Control],
        calculate: Callable[..., Any],
        show: Callable[[Any], Mapping[str, Any]],
        outputs: Mapping[str, Any],
        exports: Exports,
        steps: Adapting | None,
        at_rest: Mapping[str, Callable[[Any], str]],
        terms: Terms | None,
    ) -> None:
        """Take what `page` is given."""
        self.unit = replace(choice("unit", "Show memory in", UNITS, "GB"), passed=False)
        self.name = replace(text("name", "Name of this scenario", LONGEST_NAME), passed=False)
        self.fields, self.calculate, self.show = (*fields, self.unit, self.name), calculate, show
        self.outputs: dict[str, Any] = {"scenario": Html("scenario-name"), **outputs}
        for name in at_rest:
            self.outputs[name].style += " at-rest"
        files = answer_files(partial(self.answer, terms)) if terms else {}
        self.exports, self.steps, self.result = with_json(files | dict(exports)), steps, None
        self.at_rest = at_rest
        self.waiting: asyncio.TimerHandle | None = None
        self.adapting = False
        self.asked: Mapping[str, str] = {}
        self.page, self.said = Page(self.outputs, [*self.exports], self.hand_out), styled(made(widgets.HTML), "said")
        self.page.observe(self.fill, names="opened")

    def start(self) -> None:
        """Show the first result: the address's settings, the usual ones if they cannot be used together.

        A kernel that was started ahead has shown the usual ones before its visitor comes.
        """
        self.adapt()
        usual = self.settings()
        shown = usual if address.awaited() and not self.attempt(whole=True) else None
        self.asked = address.read()
        remarks = address.restore(self.fields, self.asked)
        self.adapt()
        failed = "" if self.settings() == shown else self.attempt(whole=True)
        if failed and self.asked:
            remarks = [f"{failed} The address asks for this; the usual settings are shown."]
            address.restore(self.fields, usual)
            self.adapt()
            failed = self.attempt(whole=True)
        self.said.value = _alert(failed) or _status(remarks)
        if remarks:
            self.remember()
        self.page.tell_all()

    def settings(self) -> dict[str, str]:
        """Return what every control is set to, as an address has it."""
        return {field.name: field.written for field in self.fields}

    def refresh(self, _change: Any) -> None:
        """Follow a control, and those that it moves: once for all of them."""
        if self.adapting:
            return
        moved = self.adapt()
        self.said.value = _alert(self.attempt()) or _status(moved)
        self.remember()
        self.page.tell()

    def adapt(self) -> list[str]:
        """Let sliders follow the other controls; return what is to be said of it."""
        if self.steps is None:
            return []
        self.adapting = True
        try:
            moved = self.steps.adapt()
        finally:
            self.adapting = False
        return [moved] if moved else []

    def attempt(self, whole: bool = False) -> str:
        """Calculate and show; return what there is to say if that fails, and leave the outputs as they are.

        What takes longer is shown at once where the `whole` page is wanted, else when the controls have come to rest.
        """
        try:
            values = {field.name: field.value for field in self.fields if field.passed}
            with units.shown_in(self.unit.value), sent_for(self.page.opened):
                result = self.calculate(**values)
                shown = self.show(result)
        except Exception as failure:
            return _words(failure)
        self.result = result
        named = self.name.value.strip()
        shown = {**shown, "scenario": f"<p class='scenario'>{escape(named)}</p>" if named else ""}
        for name, value in shown.items():
            _put(self.outputs[name], value)
        self.finish() if whole else self.finish_later()
        return ""

    def fill(self, _change: Any) -> None:
        """Show the same result with what a reader has opened."""
        if self.result is None:
            return
        with units.shown_in(self.unit.value), sent_for(self.page.opened):
            shown = self.show(self.result)
        for name, value in shown.items():
            if isinstance(value, str):
                _put(self.outputs[name], value)
        self.page.tell()

    def finish_later(self) -> None:
        """Show what takes longer when nothing has moved for a moment; at once where nothing runs that could wait."""
        if self.waiting:
            self.waiting.cancel()
        try:
            self.waiting = asyncio.get_running_loop().call_later(REST, self.rested) if self.at_rest else None
        except RuntimeError:
            return self.finish()
        for name in self.at_rest:
            self.outputs[name].waits = True

    def finish(self) -> None:
        """Show what takes longer."""
        with units.shown_in(self.unit.value):
            for name, show in self.at_rest.items():
                try:
                    self.outputs[name].value = show(self.result)
                except Exception as failure:
                    self.outputs[name].value = _alert(_words(failure))
                self.outputs[name].waits = False

    def rested(self) -> None:
        """Show what takes longer, and say so: nothing else does then."""
        self.finish()
        self.page.tell()

    def hand_out(self, name: str) -> str:
        """Give the reader a file of what is shown; return what there is to say if it cannot be made."""
        try:
            with units.shown_in(self.unit.value):
                text = self.exports[name](self.result)
            self.page.download(name, text, kind_of(name))
        except Exception as failure:
            return _words(failure)
        return ""

    def answer(self, terms: Terms, result: Any) -> Answer:
        """Return what the page says now, for a file."""
        seen = [field for field in self.fields if field.widget.layout.display != "none"]
        settings = dict(zip(_named(seen), (_shown(field.widget) for field in seen), strict=True))
        found = terms(result)
        sides = {"": found} if isinstance(found, Breakdown) else found
        return Answer(self.outputs["answer"].value, settings, urlencode(address.written(seen)), sides)

    def remember(self) -> None:
        """Write the settings into the address."""
        self.page.query = urlencode(address.written(self.fields) | address.others(self.fields, self.asked))


def _named(fields: Sequence[Control]) -> list[str]:
    """What each control is called: its label, without what explains it if that leaves no two alike."""
    labels = [str(field.widget.description) for field in fields]
    short = [label.partition(":")[0] for label in labels]
    return [name if short.count(name) == 1 else label for name, label in zip(short, labels, strict=True)]


def _shown(widget: Any) -> str:
    """What a reader sees of a value."""
    if isinstance(widget.value, bool):
        return "yes" if widget.value else "no"
    return str(getattr(widget, "label", None) or widget.value)


def _receive(take: Take, said: Any, _upload: Any, content: Any, buffers: Sequence[Any]) -> None:
    """Hand over an uploaded file; what cannot be used is said."""
    try:
        take(str(content["name"])[:80], int(content["size"]), bytes(buffers[0]) if buffers else b"")
    except Exception as failure:
        said.value = _alert(_words(failure))


def _words(failure: Exception) -> str:
    """What a reader is told: a Problem's own sentence; anything else is our mistake, and shows no traceback."""
    if isinstance(failure, Problem):
        text = str(failure).strip().rstrip(".")
        return f"{text[:1].upper()}{text[1:]}."
    logging.getLogger(__name__).debug("a page could not be computed", exc_info=failure)
    return FAILED


def _alert(sentence: str) -> str:
    return f"<p role='alert'>{escape(sentence)}</p>" if sentence else ""


def _status(sentences: Sequence[str]) -> str:
    return f"<p role='status'>{escape(' '.join(sentences))}</p>" if sentences else ""


def _put(output: Any, value: Any) -> None:
    """Give an output what it shows."""
    if isinstance(output, Chart):
        output.spec, output.alt = value
    else:
        output.value = value


def _laid_out(loop: Loop, upload: Upload | None) -> Any:
    first, *others = (field.widget for field in loop.fields)
    settings = made(widgets.VBox, children=[first, *([upload] if upload else []), loop.said, *others])
    headlines = loop.page.headlines.items()
    first_read = [styled(headline, f"output-{name} {loop.outputs[name].style}") for name, headline in headlines]
    results = made(widgets.VBox, children=[*first_read, loop.page])
    columns = made(widgets.Box, children=[styled(settings, "controls"), styled(results, "results")])
    return styled(made(widgets.VBox, children=[styled(columns, "columns")]), "memscape-page")

"""Every control of every page, moved to both ends in a browser; what is then shown is what the package computes."""

from __future__ import annotations

import re
from html import unescape
from urllib.parse import parse_qsl

import ipywidgets as widgets
import pytest
from asked import figures
from opened import Opened

import memscape as ms

NOTEBOOKS = {
    "index": "index",
    "01_parameters": "parameters",
    "02_activations": "activations",
    "03_kv_cache": "kv_cache",
    "04_training": "training",
    "05_parallelism": "parallelism",
    "06_cluster": "cluster",
    "07_what_if": "what_if",
    "08_reality_check": "reality_check",
}
WORKS = {
    "05_parallelism": "serving",
    "06_cluster": "training",
    "07_what_if": "training",
    "08_reality_check": "training",
}
NAME = 'A "name" & <b>more</b>'
HEADLINE = (
    "[...document.querySelectorAll('.answer p')].map((each) => each.textContent).join(' ').replace(/\\s+/g, ' ').trim()"
)
HOLDS = "([name, text]) => (new URLSearchParams(location.search).get(name) ?? '') === text"
# what a reader sees of each control
STATE = """() => Object.fromEntries([...document.querySelectorAll('.controls > .widget-inline-hbox')]
  .filter((row) => row.offsetParent)
  .map((row) => {
    const [menu, box, field] = ['select', '[type=checkbox]', '[type=text]'].map((each) => row.querySelector(each));
    const value = menu?.selectedOptions[0].text ?? box?.checked ?? field?.value;
    return [row.querySelector('label').textContent.trim(), value ?? row.querySelector('.widget-readout').textContent];
  }))"""

pytestmark = pytest.mark.browser


def _words(headline):
    """The paragraphs of a headline without their tags."""
    plain = " ".join(unescape(re.sub("<[^>]*>", "", each)) for each in headline.split("</p>"))
    return " ".join(plain.split())


def _sentence(problem):
    """A Problem as a page says it."""
    text = str(problem).rstrip(".")
    return f"{text[:1].upper()}{text[1:]}."


class Walk:
    """A page in a browser; beside it the same page, opened without one by what stands in the address bar."""

    def __init__(self, seen, name, query):
        self.seen, self.tab, self.name, self.start = seen, seen.tab, NOTEBOOKS[name], Opened(NOTEBOOKS[name], query)
        self.page, self.refused = self.start, 0

    @property
    def query(self):
        return self.tab.evaluate("location.search.slice(1)")

    def shown(self):
        """The controls in sight that can be moved, by name."""
        fields = self.page.fields.values()
        return [f.name for f in fields if f.widget.layout.display != "none" and not f.widget.disabled]

    def to(self, name, option, presses=()):
        """Move a control to an option, and wait until the address bar says so."""
        self.press(name, option, presses)
        field = self.page.fields[name]
        value = field.widget.options[option] if hasattr(field.widget, "options") else option
        self.seen.until(HOLDS, [name, field.write(value[1] if isinstance(value, tuple) else value)])
        self.check()

    def press(self, name, option, presses=()):
        """Move a control as a reader does; options are counted, those of check boxes and fields are values."""
        widget = self.page.fields[name].widget
        if isinstance(widget, widgets.SelectionSlider):
            self.tab.locator(f'.controls .noUi-handle[aria-label="{widget.description}"]').focus()
            for key in presses or ("End" if option else "Home",):
                self.tab.keyboard.press(key)
            return
        field = self.tab.locator(".controls").get_by_label(widget.description, exact=True)
        if isinstance(widget, widgets.Dropdown):
            field.select_option(index=option % len(widget.options))
        elif isinstance(widget, widgets.Checkbox):
            field.set_checked(option)
        else:
            field.fill(widget.options[option] if isinstance(widget, widgets.Combobox) else option)
            field.press("Enter")

    def check(self):
        """The headline is the package's for the scenario in the address; a refusal is the package's own."""
        query, alerts = self.query, self.tab.locator("[role=alert]:visible")
        asked = dict(parse_qsl(query))
        try:
            wanted = figures(self.name, asked)
        except ms.Problem as problem:
            assert alerts.all_inner_texts() == [_sentence(problem)], query
            self.refused += 1
            return
        page = Opened(self.name, query)
        assert alerts.all_inner_texts() == [] and not page.said.value, query
        assert asked == {name: field.written for name, field in page.fields.items() if field.written}
        self._settle(_words(page.answer))
        assert all(figure in _words(page.answer) for figure in wanted), (query, wanted)
        self.page = page

    def _settle(self, words):
        """Wait until the headline says this; fail with both where it never does."""
        try:
            self.seen.until(f"(words) => {HEADLINE} === words", words)
        except Exception:
            assert self.tab.evaluate(HEADLINE) == words, self.query
            raise


def _ends(field):
    """Both ends of a control, the one where it stands last: so each is moved to."""
    widget = field.widget
    if type(widget) is widgets.Text:  # a Combobox is one too
        return NAME, ""
    if isinstance(widget, widgets.Checkbox):
        return not widget.value, widget.value
    options = [each[1] if isinstance(each, tuple) else each for each in widget.options]
    return (-1, 0) if widget.value == options[0] or isinstance(widget, widgets.SelectionSlider) else (0, -1)


def _both_ends(walk, name):
    """Move a control to both ends, then to where the others can be moved from."""
    field = walk.page.fields[name]
    start = field.widget.value
    for option in _ends(field):
        walk.to(name, option)
    widget = walk.page.fields[name].widget
    if isinstance(widget, widgets.SelectionSlider) and len(widget.options) > 3:
        walk.to(name, 2, ("ArrowRight", "ArrowRight"))
    elif isinstance(widget, widgets.Combobox):
        walk.to(name, widget.options.index(start))


def _elsewhere(walk):
    """Move every menu and check box away from where it is, one after the other without a pause."""
    for name in walk.shown():
        field = walk.page.fields[name]
        if name != "work" and isinstance(field.widget, widgets.Dropdown):
            walk.press(name, 1)
        elif isinstance(field.widget, widgets.Checkbox):
            walk.press(name, not field.widget.value)
    walk.to("name", NAME)


@pytest.mark.parametrize("name, query", [
    *((name, "") for name in NOTEBOOKS),
    *((name, f"work={work}") for name, work in WORKS.items()),
])  # fmt: skip
def test_every_control_goes_to_both_ends_and_the_link_brings_all_back(visit, name, query):
    """No error, the headline is the package's for the scenario in the address, which a new visitor opens as it was."""
    walk = Walk(visit().open(name, query), name, query)
    controls = walk.shown()
    for control in controls:
        _both_ends(walk, control)
    _elsewhere(walk)
    assert {*controls} <= {*walk.page.fields} and walk.refused <= 2
    assert walk.tab.inner_text(".scenario") == NAME
    again = visit().open(name, walk.query)
    assert again.tab.evaluate(STATE) == walk.tab.evaluate(STATE)
    assert again.tab.evaluate(HEADLINE) == walk.tab.evaluate(HEADLINE)
    assert again.tab.inner_text(".said").strip() == ""
    assert walk.seen.complaints == again.complaints == []

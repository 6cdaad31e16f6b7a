"""The look of the pages: colours that can be told apart, links that lead somewhere, nothing from another host."""

from __future__ import annotations

import itertools
import json
import re

import pytest
from published import ROOT

DASHBOARD = ROOT / "src" / "memscape" / "dashboard" / "share" / "jupyter"
TEMPLATE = DASHBOARD / "voila" / "templates" / "memscape"
SCRIPTS = ROOT / "src" / "memscape" / "views"
# Machado, Oliveira, Fernandes 2009, "A physiologically-based model for simulation of color vision deficiency",
# severity 1.0, for linear RGB
VISION = {
    "usual": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protanopia": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deuteranopia": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.01182, 0.04294, 0.968881)),
    "tritanopia": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.3039)),
}
# Ottosson 2020, "A perceptual color space for image processing" (Oklab)
CONES = (
    (0.4122214708, 0.5363325363, 0.0514459929),
    (0.2119034982, 0.6806995451, 0.1073969566),
    (0.0883024619, 0.2817188376, 0.6299787005),
)
LAB = (
    (0.2104542553, 0.793617785, -0.0040720468),
    (1.9779984951, -2.428592205, 0.4505937099),
    (0.0259040371, 0.7827717662, -0.808675766),
)


def _palette(theme):
    sheet = (TEMPLATE / "static" / "cards.css").read_text(encoding="utf-8")
    blocks = re.findall(r":root[^{]*\{([^}]*--card:[^}]*)\}", sheet)
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", blocks[("light", "dark").index(theme)]))


def _linear(colour):
    values = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    return [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in values]


def _times(matrix, vector):
    return [sum(one * other for one, other in zip(row, vector, strict=True)) for row in matrix]


def _contrast(one, other):
    """WCAG 2.2: (L1 + 0.05) / (L2 + 0.05) of the relative luminances."""
    light, dark = sorted((_times([(0.2126, 0.7152, 0.0722)], _linear(each))[0] for each in (one, other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _seen(colour, vision):
    cones = _times(CONES, [min(max(value, 0), 1) for value in _times(VISION[vision], _linear(colour))])
    return _times(LAB, [value ** (1 / 3) for value in cones])


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_parts_stand_out_from_the_card(theme):
    """WCAG 2.2, 1.4.11: graphics have a contrast of at least 3:1; what is free is meant to recede."""
    palette = _palette(theme)
    drawn = [name for name in palette if name.startswith(("part-", "group-", "series-")) and name != "part-free"]
    assert len(drawn) >= 16
    for name in drawn:
        assert _contrast(palette[name], palette["card"]) >= 3, name


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize("kind", ["part", "group"])
def test_colours_can_be_told_apart(kind, vision, theme):
    """Every two colours of a kind lie 0.06 apart in Oklab, three times a difference that is just seen (0.02)."""
    colours = {name: value for name, value in _palette(theme).items() if name.startswith(f"{kind}-")}
    for one, other in itertools.combinations(colours, 2):
        pairs = zip(_seen(colours[one], vision), _seen(colours[other], vision), strict=True)
        assert sum((left - right) ** 2 for left, right in pairs) ** 0.5 >= 0.06, (one, other)


def test_both_themes_name_the_same_colours():
    assert set(_palette("light")) == set(_palette("dark"))


def test_script_of_voila_comes_after_what_it_reads():
    """Voilà 0.5: its script reads `jupyter-config-data` as it starts; without it, it looks in the wrong folder."""
    page = (TEMPLATE / "index.html.j2").read_text(encoding="utf-8")
    (script,) = re.findall(r"<script src=.*main_js.*async></script>", page)
    assert page.index("block any_cell") < page.index(script) < page.index("endblock any_cell")


def test_menu_leads_to_every_notebook():
    """A notebook that nobody can reach, or a link to none, is a mistake in the template's list."""
    listed = re.findall(r"\('([\w]+)', '[^']+'\)", (TEMPLATE / "index.html.j2").read_text(encoding="utf-8"))
    assert sorted(listed) == sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize(
    "path",
    sorted([*TEMPLATE.rglob("*.*"), *SCRIPTS.glob("*.js")]),
    ids=lambda path: path.name,
)
def test_nothing_is_asked_of_another_host(path):
    """Pages work without a network; the only address is the name of SVG's vocabulary."""
    if path.is_file():
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|[\"'(]//\w", text)


def test_pages_run_on_the_python_that_serves_them():
    """jupyter_client replaces a bare "python" by its own interpreter; a path would be somebody else's."""
    kernel = json.loads((DASHBOARD / "kernels" / "python3" / "kernel.json").read_text(encoding="utf-8"))
    assert kernel["argv"][0] == "python" and "{connection_file}" in kernel["argv"]

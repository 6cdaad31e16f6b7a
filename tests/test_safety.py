"""What a hostile visitor would ask for: the server has nothing to give but pages, and a config is only a config."""

from __future__ import annotations

import json
import re
import shutil
from urllib.parse import quote

import pytest
from hostile import get, opened, served
from opened import Opened
from published import ROOT

import memscape as ms
from memscape import tables
from memscape.readers import LARGEST_CONFIG, parse_config
from memscape.views import pages, scenario

NOTEBOOKS = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
SCRIPT = '"><script>document.title="owned"</script><img src=x onerror=alert(1)>'

pytestmark = pytest.mark.browser


@pytest.mark.parametrize("path", [
    "voila/files/index.ipynb",
    "voila/files/../pyproject.toml",
    "files/index.ipynb",
    "api/contents",
    "api/kernels",
    "lab",
    "tree",
    "terminals/1",
    "voila/render/",
    "voila/render/../pyproject.toml",
    "voila/render/%2e%2e%2fpyproject.toml",
    "voila/files/..%2f..%2fetc%2fpasswd",
    "voila/static/..%2f..%2f..%2fapp.py",
    "voila/templates/memscape/static/..%2findex.html.j2",
    "voila/labextensions/..%2f..%2f..%2f__init__.py",
    "voila/plotly.js/..%2fsite.py",
    "api/contents/index.ipynb",
    "api/sessions",
    "nbconvert/html/index.ipynb",
    "edit/index.ipynb",
])  # fmt: skip
def test_server_gives_nothing_but_pages(server, path):
    """No file, no listing, no kernel of another visitor, no JupyterLab."""
    status, shown = get(server.url, f"/{path}")
    assert status in (302, 400, 403, 404, 405, 500), shown[:200]
    assert not re.search(r"nbformat|\[project\]|root:x|import ", shown)


def test_folder_is_not_listed(server):
    """Stock Voilà 0.5.13 tells names, sizes and dates."""
    _, shown = get(server.url, "/voila/api/contents")
    assert ".ipynb" not in shown and ".ipynb" not in get(server.url, "/voila/tree")[1].replace("index.ipynb", "")


def test_file_beside_a_notebook_is_not_given(tmp_path):
    """Voilà gives every image of its folder unless it is told not to (`file_allowlist`)."""
    shutil.copy(ROOT / "notebooks" / "03_kv_cache.ipynb", tmp_path)
    (tmp_path / "picture.png").write_bytes(b"a picture")
    with served(folder=tmp_path) as server:
        status, shown = get(server.url, "/voila/files/picture.png")
    assert status in (403, 404) and "a picture" not in shown


def test_query_is_not_written_into_the_page(server):
    """Stock Voilà 0.5.13 writes ?theme= into the page unescaped."""
    for name in ("theme", "template", "anything", "template=lab&theme"):
        shown = opened(server.url, "index", f"{name}=%22%3E%3Cscript%3Eowned%3C/script%3E")
        assert "<script>owned" not in shown


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_script_in_every_query_value_is_not_written_into_a_page(server, name):
    """Each setting of every page, and the names that stock Voilà reads."""
    names = ("model", "tokens", "accelerator", "work", "unit", "kv_cache", "theme", "template", "anything")
    query = "&".join(f"{each}={quote(SCRIPT)}" for each in names)
    shown = opened(server.url, name, query)
    assert "<script>document" not in shown and "<img src=x" not in shown


def test_source_of_a_notebook_is_not_in_its_page(server):
    shown = opened(server.url, "03_kv_cache")
    assert "from memscape" not in shown and "pages.kv_cache" not in shown


# files


def _config(**changed):
    path = tables.folder() / "models" / "llama-3.1-8b.json"
    return json.dumps(json.loads(path.read_text(encoding="utf-8")) | changed).encode()


@pytest.mark.parametrize("key", ["num_hidden_layers", "hidden_size", "vocab_size", "num_attention_heads", "head_dim"])
@pytest.mark.parametrize("value", [10**12, 10**300, -1, 0, 0.5, "many", [1] * 10**5, {"a": {}}, None])
def test_config_with_an_absurd_size_is_answered_or_refused_at_once(key, value):
    """A file is somebody else's: no size of it makes the calculation long, and what cannot be is a Problem."""
    try:
        model = ms.read_model(parse_config(_config(**{key: value}), "config.json"), "config.json")
        ms.memory(model, ms.Inference(prompt_tokens=8192))
        ms.memory(model, ms.Training(sequence_tokens=128))
    except ms.Problem as problem:
        assert len(str(problem)) < 1000


# a name that stands twice is looked for among half a million
TWIN = b"{" + b"".join(b'"%d":0,' % number for number in range(500_000)) + b'"x":0,"x":0}'


@pytest.mark.parametrize(
    "content",
    [b"[" * 10**5, b'{"a":' * 10**5, b"\xff\xfe", b"null", b"{}" + b" " * LARGEST_CONFIG, TWIN],
    ids=lambda content: repr(content[:8]),
)
def test_file_that_is_no_config_is_refused_in_a_sentence(content):
    with pytest.raises(ms.Problem) as said:
        parse_config(content, "config.json")
    assert len(str(said.value)) < 1000


def test_script_in_a_config_is_shown_as_text():
    """Names of an uploaded file reach the page: all of them escaped."""
    opened = Opened("index")
    content = _config(architectures=[SCRIPT], _name_or_path=SCRIPT, torch_dtype=SCRIPT)
    choice = scenario.ModelChoice()
    opened.fields["model"] = choice.control
    choice.upload[1](SCRIPT, len(content), content)
    values = {name: field.value for name, field in opened.fields.items() if field.passed}
    shown = pages._show_overview(pages._overview(**values))
    words = " ".join(str(each) for each in shown.values())
    assert "<script" not in words and "<img" not in words

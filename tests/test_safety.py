"""What a hostile visitor would try: the server has nothing to give but pages, and a page takes nothing but settings."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from urllib.parse import quote

import pytest
from conftest import Server, free_port
from hostile import Socket, get, kernel_of, opened
from opened import Opened
from published import ROOT
from tornado.httpclient import HTTPClientError

import memscape as ms
from memscape import tables
from memscape.readers import LARGEST_CONFIG, parse_config
from memscape.views import pages, scenario

NOTEBOOKS = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
SCRIPT = '"><script>document.title="owned"</script><img src=x onerror=alert(1)>'
ANSWER = r"<b>([\d,]+) bytes</b>"

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
    "voila/labextensions/package_data/..%2f__init__.py",
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


# over the socket


@pytest.fixture
def socket(server):
    """A page's kernel, spoken to without its page."""
    _, page = get(server.url, "/voila/render/03_kv_cache.ipynb?model=llama-3.1-8b")
    opened = Socket(server.url, kernel_of(page))
    yield opened
    opened.close()


def _drain(socket, seconds=1.0):
    found = []
    while (message := socket.read(seconds)) is not None:
        found.append(message)
    return found


def _named(states, model, words):
    """The one widget of a kind whose state holds some words."""
    (name,) = [each for each, state in states.items() if state["_model_name"] == model and words in json.dumps(state)]
    return name


def _bytes(states):
    """The bytes in the headline of the page."""
    answer = next(state["value"] for state in states.values() if "answer" in state.get("_dom_classes", []))
    return int(re.search(ANSWER, answer)[1].replace(",", ""))


@pytest.mark.parametrize("kind, content", [
    ("execute_request", {"code": "open({path!r}, 'w').write('x')", "silent": False}),
    ("execute_request", {"code": "open({path!r}, 'w').write('x')", "silent": True, "user_expressions": {"a": "1"}}),
    ("complete_request", {"code": "open.", "cursor_pos": 5}),
    ("inspect_request", {"code": "open", "cursor_pos": 4, "detail_level": 1}),
    ("history_request", {"hist_access_type": "tail", "n": 10, "raw": True, "output": False}),
    ("debug_request", {"type": "request", "command": "evaluate", "arguments": {"expression": "1"}}),
])  # fmt: skip
def test_visitor_cannot_have_code_run_or_read(socket, tmp_path, kind, content):
    """Nothing is written, and no answer of such a kind comes back."""
    path = tmp_path / "owned"
    for channel in ("shell", "control"):
        socket.send(kind, {k: v.format(path=str(path)) if k == "code" else v for k, v in content.items()}, channel)
    kinds = {message["header"]["msg_type"] for message in _drain(socket, 2.0)}
    assert not kinds & {kind.replace("request", "reply"), "execute_input", "execute_result", "stream"}
    assert not path.exists()
    assert _bytes(socket.widgets()) > 0


def test_another_site_cannot_speak_to_a_kernel(server):
    page = opened(server.url, "03_kv_cache")
    with pytest.raises(HTTPClientError, match="403"):
        Socket(server.url, kernel_of(page), origin="https://elsewhere.example")


def test_kernel_of_nobody_is_not_there(server):
    with pytest.raises(HTTPClientError):
        Socket(server.url, "00000000-0000-0000-0000-000000000000")


@pytest.mark.parametrize("label, state", [
    ("Tokens in each conversation", {"index": 10**12}),
    ("Tokens in each conversation", {"index": -(10**12)}),
    ("Tokens in each conversation", {"index": "<script>"}),
    ("KV cache in", {"index": 10**6}),
    ("Model", {"value": "<img src=x onerror=alert(1)>" + "x" * 10**6}),
    ("Model", {"value": 17}),
])  # fmt: skip
def test_value_that_no_control_offers_changes_no_answer(socket, label, state):
    """A front end may set any trait to anything: the answer stays, and what is shown of it is escaped."""
    before = socket.widgets()
    name = next(each for each, found in before.items() if found.get("description") == label)
    socket.set(name, **state)
    _drain(socket)
    after = socket.widgets()
    assert _bytes(after) == _bytes(before)
    said = " ".join(found["value"] for found in after.values() if "said" in found.get("_dom_classes", []))
    assert "<img" not in said and "<script" not in said and len(said) < 2000


def test_a_thousand_messages_leave_the_right_answer(socket):
    """A slider thrown about: every message is read, the last value is the one that is answered."""
    states = socket.widgets()
    name = next(each for each, found in states.items() if found.get("description") == "Tokens in each conversation")
    for place in range(1000):
        socket.set(name, index=place % 5)
    _drain(socket, 5.0)
    asked = ms.Inference(sequences=16, prompt_tokens=2**11, output_tokens=0)
    assert _bytes(socket.widgets()) == ms.kv_cache(ms.model("llama-3.1-8b"), asked).total


# files


def _upload(socket, name, content, size=None):
    """What the upload field sends, without its binary part: nothing that a config could be read from."""
    states = socket.widgets()
    field = next(each for each, state in states.items() if "config.json" in str(state.get("label", "")))
    message = {"name": name, "size": len(content) if size is None else size}
    socket.send("comm_msg", {"comm_id": field, "data": {"method": "custom", "content": message}})
    _drain(socket)
    said = [state["value"] for state in socket.widgets().values() if "said" in state.get("_dom_classes", [])]
    return " ".join(said)


@pytest.mark.parametrize("name, size", [
    ("config.json", 10**12), ("config.json", -5), (SCRIPT, 10), ("x" * 10**5, 10), ("config.json", "many"),
])  # fmt: skip
def test_upload_of_the_wrong_shape_is_a_sentence(socket, name, size):
    before = _bytes(socket.widgets())
    said = _upload(socket, name, b"", size)
    assert "role='alert'" in said and len(said) < 1000 and "<script" not in said and "<img" not in said
    assert _bytes(socket.widgets()) == before


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


@pytest.mark.parametrize(
    "content", [b"[" * 10**5, b'{"a":' * 10**5, b"\xff\xfe", b"null", b"{}" + b" " * LARGEST_CONFIG]
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


# a server that is full


def test_server_has_a_most_of_visitors():
    """However many come at once: one more than it was set for is told so, and that it can come back."""
    port = free_port()
    command = [sys.executable, "-m", "memscape.dashboard.launch", "--no-browser", f"--port={port}"]
    process = subprocess.Popen(
        [*command, "--CappedKernels.most=1"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    server = Server(f"http://localhost:{port}", process)
    try:
        server.wait()
        with ThreadPoolExecutor(6) as visitors:
            paths = ["/voila/render/03_kv_cache.ipynb"] * 6
            seen = sorted(status for status, _ in visitors.map(partial(get, server.url), paths))
        assert seen == [200, 503, 503, 503, 503, 503]
        status, shown = get(server.url, "/voila/render/03_kv_cache.ipynb")
        assert status == 503 and "All places are taken" in shown and "Try again" in shown
    finally:
        process.terminate()
        process.wait(timeout=30)

"""What a hostile visitor would try: the server has nothing to give but pages, and a page takes nothing but settings."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from urllib.parse import quote

import psutil
import pytest
from conftest import Server, free_port
from hostile import Socket, framed, get, kernel_of, leave, opened
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
SERVE = (
    "import sys, pathlib, memscape.dashboard.launch as launch; launch.serve(pathlib.Path(sys.argv[1]), sys.argv[2:])"
)
REFUSED, TOO_LARGE, TOO_MANY = 1008, 1009, 1013  # RFC 6455, 7.4.1, and the list of such numbers that it founded

pytestmark = pytest.mark.browser


@contextmanager
def _served(*settings, folder=ROOT / "notebooks"):
    """A server of its own, where the limits can be reached."""
    port = free_port()
    command = [sys.executable, "-c", SERVE, str(folder), "--no-browser", f"--port={port}", *settings]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    server = Server(f"http://localhost:{port}", process)
    try:
        server.wait()
        yield server
    finally:
        process.terminate()
        process.wait(timeout=30)


def _kernels(server):
    return len(psutil.Process(server.process.pid).children())


def _connections(server):
    port = int(server.url.rpartition(":")[2])
    every = psutil.Process(server.process.pid).net_connections()
    return [each for each in every if each.status == "ESTABLISHED" and each.laddr.port == port]


def _until(holds):
    """Wait for what has to come."""
    for _ in range(600):
        if holds():
            return True
        time.sleep(0.1)
    return False


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


def test_folder_is_not_listed(server):
    """Stock Voilà 0.5.13 tells names, sizes and dates."""
    _, shown = get(server.url, "/voila/api/contents")
    assert ".ipynb" not in shown and ".ipynb" not in get(server.url, "/voila/tree")[1].replace("index.ipynb", "")


def test_file_beside_a_notebook_is_not_given(tmp_path):
    """Voilà gives every image of its folder unless it is told not to (`file_allowlist`)."""
    shutil.copy(ROOT / "notebooks" / "03_kv_cache.ipynb", tmp_path)
    (tmp_path / "picture.png").write_bytes(b"a picture")
    with _served(folder=tmp_path) as server:
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


# over the socket


@pytest.fixture
def socket(server):
    """A page's kernel, spoken to without its page."""
    _, page = get(server.url, "/voila/render/03_kv_cache.ipynb?model=llama-3.1-8b")
    opened = Socket(server.url, kernel_of(page))
    yield opened
    opened.leave()


@pytest.fixture(scope="module")
def kernel(server):
    """The kernel of one page for all that must leave no trace in it."""
    _, page = get(server.url, "/voila/render/03_kv_cache.ipynb?model=llama-3.1-8b")
    return kernel_of(page)


@pytest.fixture
def visitor(server, kernel):
    """Another socket to that kernel."""
    opened = Socket(server.url, kernel)
    yield opened
    opened.close()


def _again(socket):
    """Another socket of the same page: the first one was hung up on."""
    other = Socket(socket.url, socket.kernel)
    states = other.widgets()
    other.close()
    return states


def _labelled(states, label):
    return next(name for name, state in states.items() if state.get("description") == label)


def _said(states):
    return " ".join(state["value"] for state in states.values() if "said" in state.get("_dom_classes", []))


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
    ("shutdown_request", {"restart": True}),
    ("input_reply", {"value": "x"}),
])  # fmt: skip
def test_visitor_cannot_have_code_run_or_read(visitor, tmp_path, kind, content):
    """Nothing is written, and no answer of such a kind comes back before the answers to what is asked next."""
    path = tmp_path / "owned"
    for channel in ("shell", "control", "stdin"):
        visitor.send(kind, {k: v.format(path=str(path)) if k == "code" else v for k, v in content.items()}, channel)
    visitor.send("kernel_info_request", {}, "control")
    heard = visitor.until("kernel_info_reply")
    states = visitor.widgets(heard)
    assert not set(heard) & {kind.replace("request", "reply"), "execute_input", "execute_result", "stream", "error"}
    assert not path.exists()
    assert _bytes(states) > 0


def test_another_site_cannot_speak_to_a_kernel(server, visitor):
    with pytest.raises(HTTPClientError, match="403"):
        Socket(server.url, visitor.kernel, origin="https://elsewhere.example")


def test_kernel_of_nobody_is_not_there(server):
    with pytest.raises(HTTPClientError):
        Socket(server.url, "00000000-0000-0000-0000-000000000000")


def test_kernel_is_ended_by_its_own_page_alone(server, visitor):
    """The cookie's value has to stand in the body too: another site can send the one and not know the other."""
    assert leave(server.url, visitor.kernel, "", wait=True) == 403
    assert _bytes(visitor.widgets()) > 0


@pytest.mark.parametrize("label, state", [
    ("Tokens in each conversation", {"index": 10**12}),
    ("Tokens in each conversation", {"index": -(10**12)}),
    ("Tokens in each conversation", {"index": "<script>"}),
    ("Tokens in each conversation", {"_options_labels": ["1"] * 10**4, "index": 9999}),
    ("KV cache in", {"index": 10**6}),
    ("Model", {"value": "<img src=x onerror=alert(1)>" + "x" * 60_000}),
    ("Model", {"options": [SCRIPT] * 500, "value": SCRIPT}),
    ("Model", {"value": 17}),
    ("Name of this scenario", {"value": [1] * 10**4}),
    ("Name of this scenario", {"value": SCRIPT * 500}),
])  # fmt: skip
def test_value_that_no_control_offers_changes_no_answer(socket, label, state):
    """A front end may set any trait to anything: the answer stays, what is shown is escaped, no path is told."""
    before = socket.widgets()
    socket.set(_labelled(before, label), **state)
    kinds = []
    after = socket.widgets(kinds)
    assert _bytes(after) == _bytes(before)
    shown = " ".join(each.get("value", "") for each in after.values() if each["_model_name"].startswith("HTML"))
    assert "<img" not in shown and "<script" not in shown and len(_said(after)) < 2000
    assert set(kinds) <= {"status", "comm_msg"}


def test_refused_value_tells_no_path_of_the_server(visitor):
    """The kernel's tracebacks, which it sends for a refused value, do not reach the page."""
    name = _labelled(visitor.widgets(), "KV cache in")
    visitor.set(name, index=10**6)
    kinds = []
    states = visitor.widgets(kinds)
    assert not {"error", "stream", "display_data"} & set(kinds) and "site-packages" not in json.dumps(states)


def test_widget_of_the_visitors_own_is_not_made(visitor):
    """A page moves the widgets that are there."""
    count = len(visitor.widgets())
    state = {"_model_module": "@jupyter-widgets/controls", "_model_name": "TextModel", "value": "x" * 1000}
    for name in ("a", "b"):
        visitor.send("comm_open", {"comm_id": name, "target_name": "jupyter.widget", "data": {"state": state}})
    assert len(visitor.widgets()) == count


def test_a_thousand_messages_leave_the_right_answer_and_another_visitor_his(server, socket):
    """A slider thrown about: every message is read, the last value is the one that is answered."""
    other = Socket(server.url, kernel_of(get(server.url, "/voila/render/03_kv_cache.ipynb?model=llama-3.1-8b")[1]))
    before = _bytes(other.widgets())
    name = _labelled(socket.widgets(), "Tokens in each conversation")
    for place in range(1000):
        socket.set(name, index=place % 5)
    assert _bytes(other.widgets()) == before
    other.leave()
    asked = ms.Inference(sequences=16, prompt_tokens=2**11, output_tokens=0)
    assert _bytes(socket.widgets()) == ms.kv_cache(ms.model("llama-3.1-8b"), asked).total


def test_who_floods_is_hung_up_on_and_may_come_back(socket):
    """Far more than a hand on a slider sends: the connection ends, the page does not."""
    states = socket.widgets()
    name = _labelled(states, "Tokens in each conversation")
    moved = {"comm_id": name, "data": {"method": "update", "state": {"index": 3}}}
    socket.flood(framed("comm_msg", moved) for _ in range(20_000))
    assert socket.hung_up() == REFUSED
    assert _until(lambda: _bytes(_again(socket)))


ANY = framed("comm_info_request", {})


def _placed(count, *places):
    return b"".join(number.to_bytes(8, "little") for number in (count, *places))


@pytest.mark.parametrize("message", [
    _placed(10**12, *[8] * 8),
    _placed(2**64 - 1),
    _placed(0),
    _placed(60, *[8] * 60) + b"x" * 1000,
    _placed(6, 56, 60, 58, 70, 80, 90) + b"x" * 100,
    _placed(6, 56, 57, 58, 59, 60, 2**63) + b"x" * 100,
    ANY[:-1],
    ANY + b"x",
    b"",
    "{}",
    "[" * 10**5,
    framed("comm_msg", {"comm_id": "x", "data": "x" * 10**6}),
], ids=lambda message: repr(message[:12]))  # fmt: skip
def test_message_that_no_page_sends_is_the_end_of_its_socket(visitor, message):
    """Jupyter Server 2.21 believes what a message says of itself: 72 bytes can take all memory of the server."""
    visitor.write(message)
    assert visitor.hung_up() == REFUSED
    assert _bytes(_again(visitor)) > 0


@pytest.mark.parametrize("message", [
    framed("comm_msg", "x"),
    framed("comm_msg", {"comm_id": ["x"], "data": None}),
    framed("comm_open", {"comm_id": {}, "target_name": "jupyter.widget.control"}),
    framed("comm_msg", {"comm_id": "x", "data": {}}, subshell_id="nobody's"),
    framed("comm_msg", {}, channel="elsewhere"),
    framed("comm_close", {"comm_id": None}),
], ids=range(6))  # fmt: skip
def test_message_without_sense_is_passed_over(visitor, message):
    visitor.write(message)
    assert _bytes(_again(visitor)) > 0


def test_older_form_of_messages_is_not_read(server, visitor):
    """Four bytes of it make Jupyter Server 2.21 ask for gigabytes."""
    other = Socket(server.url, visitor.kernel, form=None)
    other.write((2**31 - 1).to_bytes(4, "big") * 3)
    assert other.hung_up() == REFUSED
    assert _bytes(visitor.widgets()) > 0


def test_page_has_a_most_of_sockets(server, socket):
    """Each takes nine of the files that a server may have open."""
    others = [Socket(server.url, socket.kernel) for _ in range(4)]
    assert others[-1].hung_up() == TOO_MANY
    for other in others:
        other.close()
    assert _bytes(socket.widgets()) > 0


def test_who_asks_and_does_not_read_is_hung_up_on():
    """What waits for a page is memory of the server."""
    with _served("--PageSocket.unread=1000000") as server:
        silent = Socket(server.url, kernel_of(get(server.url, "/voila/render/03_kv_cache.ipynb")[1]))
        comm = {"comm_id": "x"}
        silent.send("comm_open", comm | {"target_name": "jupyter.widget.control", "data": {}})
        silent.flood(framed("comm_msg", comm | {"data": {"method": "request_states"}}) for _ in range(300))
        assert _until(lambda: not _connections(server))
        assert silent.hung_up() in (REFUSED, None)
        assert len(_again(silent)) > 50


# files


def _upload(socket, name, size, content=None):
    """What the upload field sends; return what the page says to it."""
    states = socket.widgets()
    field = next(each for each, state in states.items() if "config.json" in str(state.get("label", "")))
    socket.tell(field, method="custom", content={"name": name, "size": size}, file=content)
    return _said(socket.widgets())


@pytest.mark.parametrize("name, size", [
    ("config.json", 10**12), ("config.json", -5), (SCRIPT, 10), ("x" * 10**4, 10), ("config.json", "many"),
    (["config.json"] * 1000, 10),
])  # fmt: skip
def test_upload_of_the_wrong_shape_is_a_sentence(socket, name, size):
    before = _bytes(socket.widgets())
    said = _upload(socket, name, size)
    assert "role='alert'" in said and len(said) < 1000 and "<script" not in said and "<img" not in said
    assert _bytes(socket.widgets()) == before


def test_upload_past_the_browsers_check_is_a_sentence(socket):
    """The field refuses what is too large; who goes round it is told the same, whatever size he claims."""
    before = _bytes(socket.widgets())
    for size in (9 * 2**20, 10):
        said = _upload(socket, "config.json", size, b" " * (9 * 2**20))
        assert "has 9.4" in said and "role='alert'" in said
    assert _bytes(socket.widgets()) == before


def test_upload_beyond_a_message_ends_the_socket_and_not_the_page(visit):
    """More than Tornado takes at once, 10 MiB: an open page of the same kernel goes on, and says nothing of it."""
    seen = visit().open("03_kv_cache", "model=llama-3.1-8b")
    other = Socket(seen.server.url, kernel_of(seen.tab.content()))
    other.write(framed("comm_msg", {"comm_id": "x", "data": {}}, file=b" " * (11 * 2**20)))
    assert other.hung_up() in (TOO_LARGE, None)
    before = seen.answer
    seen.tab.locator(".controls .noUi-handle").nth(0).focus()
    seen.tab.keyboard.press("End")
    seen.until("(before) => document.querySelector('.answer').innerText !== before", before)
    assert seen.tab.locator(".dead").count() == 0 and seen.complaints == []


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


# places


def test_server_has_a_most_of_visitors():
    """However many come at once: one more than it was set for is told so, and that it can come back."""
    with _served("--CappedKernels.most=1") as server:
        with ThreadPoolExecutor(6) as visitors:
            paths = ["/voila/render/03_kv_cache.ipynb"] * 6
            seen = sorted(visitors.map(partial(get, server.url), paths))
        assert [status for status, _ in seen] == [200, 503, 503, 503, 503, 503]
        status, shown = get(server.url, "/voila/render/03_kv_cache.ipynb")
        assert status == 503 and "All places are taken" in shown and "Try again" in shown
        Socket(server.url, kernel_of(seen[0][1])).leave()
        assert _until(lambda: get(server.url, "/voila/render/03_kv_cache.ipynb")[0] == 200)


def test_page_that_is_left_frees_its_kernel_and_comes_back_anew(visit):
    """To another page, by reloading, by closing: no kernel stays, no error is logged; back, the settings are there."""
    with _served() as server:
        seen = visit()
        seen.server = server
        seen.complaints.clear()
        seen.open("03_kv_cache", "model=llama-3.1-8b&tokens=4096")
        answer = seen.answer
        seen.tab.goto("about:blank")
        assert _until(lambda: _kernels(server) == 0)
        seen.tab.go_back()
        seen.tab.wait_for_selector(".memscape-chart .main-svg")
        assert seen.answer == answer and _kernels(server) == 1
        # what a browser does with a page that it has kept whole
        with seen.tab.expect_navigation():
            seen.tab.evaluate("dispatchEvent(new PageTransitionEvent('pageshow', { persisted: true }))")
        seen.tab.wait_for_selector(".memscape-chart .main-svg")
        assert seen.answer == answer and _until(lambda: _kernels(server) == 1)
        seen.tab.close(run_before_unload=True)
        assert _until(lambda: _kernels(server) == 0)
        assert [each for each in seen.complaints if not each.startswith(("request: ", "socket: "))] == []


def test_page_whose_kernel_has_ended_says_so(visit):
    """However it ended; the settings are in the address."""
    seen = visit().open("03_kv_cache", "tokens=4096")
    Socket(seen.server.url, kernel_of(seen.tab.content())).leave()
    assert seen.tab.wait_for_selector(".dead[role=alert]:has-text('has stopped') a").is_visible()
    assert "tokens=4096" in seen.tab.url


EVERY_SECOND = "--MappingKernelManager.cull_interval=1"


def test_kernel_ends_whose_page_nobody_opened():
    """A robot, which runs no script."""
    with _served(EVERY_SECOND, "--CappedKernels.unopened=1") as server:
        get(server.url, "/voila/render/03_kv_cache.ipynb")
        assert _until(lambda: _kernels(server) == 0)


def test_kernel_ends_whose_page_is_open_and_untouched():
    """Who opens sockets and never speaks does not hold a place for ever."""
    with _served(EVERY_SECOND, "--CappedKernels.untouched=1") as server:
        silent = Socket(server.url, kernel_of(get(server.url, "/voila/render/03_kv_cache.ipynb")[1]))
        assert "shutdown_reply" in silent.until("shutdown_reply")
        assert _until(lambda: _kernels(server) == 0)
        silent.close()


def test_kernel_ends_whose_page_is_away_and_no_other():
    """A class looks at a page without moving a slider: it has an hour, not the minutes of a page that is away."""
    with _served(EVERY_SECOND, "--MappingKernelManager.cull_idle_timeout=1") as server:
        looked_at, away = (
            Socket(server.url, kernel_of(get(server.url, "/voila/render/03_kv_cache.ipynb")[1])) for _ in range(2)
        )
        away.close()
        assert _until(lambda: _kernels(server) == 1)
        assert len(looked_at.widgets()) > 50
        looked_at.leave()

"""What a hostile visitor would say: a page takes its settings and nothing else, and who says too much is hung up on."""

from __future__ import annotations

import json
import re

import pytest
from hostile import Socket, connections, framed, get, kernel_of, leave, output, served, until, values
from tornado.httpclient import HTTPClientError

import memscape as ms

SCRIPT = '"><script>document.title="owned"</script><img src=x onerror=alert(1)>'
ANSWER = r"<b>([\d,]+) bytes</b>"
REFUSED, TOO_LARGE, TOO_MANY = 1008, 1009, 1013  # RFC 6455, 7.4.1, and the list of such numbers that it founded

pytestmark = pytest.mark.browser


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


def _bytes(states):
    """The bytes in the headline of the page."""
    return int(re.search(ANSWER, output(states, "answer"))[1].replace(",", ""))


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
    shown = " ".join(value for _, value in values(after))
    assert "<img" not in shown and "<script" not in shown and len(output(after, "said")) < 2000
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
    assert until(lambda: _bytes(_again(socket)))


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
    with served("--PageSocket.unread=1000000") as server:
        silent = Socket(server.url, kernel_of(get(server.url, "/voila/render/03_kv_cache.ipynb")[1]))
        comm = {"comm_id": "x"}
        silent.send("comm_open", comm | {"target_name": "jupyter.widget.control", "data": {}})
        silent.flood(framed("comm_msg", comm | {"data": {"method": "request_states"}}) for _ in range(300))
        assert until(lambda: not connections(server))
        assert silent.hung_up() in (REFUSED, None)
        assert len(_again(silent)) > 20


# files


def _upload(socket, name, size, content=None):
    """What the upload field sends; return what the page says to it."""
    states = socket.widgets()
    field = next(each for each, state in states.items() if "config.json" in str(state.get("label", "")))
    socket.tell(field, method="custom", content={"name": name, "size": size}, file=content)
    return output(socket.widgets(), "said")


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

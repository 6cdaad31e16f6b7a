"""A visitor who speaks to the server without a browser: pages by HTTP, a page's kernel by its socket."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import time
import uuid
from contextlib import contextmanager
from http.client import HTTPConnection
from threading import Thread
from urllib.parse import urlencode, urlsplit

import psutil
from conftest import Server, free_port
from published import ROOT
from tornado.httpclient import HTTPRequest
from tornado.iostream import StreamClosedError
from tornado.websocket import WebSocketClosedError, websocket_connect

CONTROL = "jupyter.widget.control"
FORM = "v1.kernel.websocket.jupyter.org"
SERVE = (
    "import sys, pathlib, memscape.dashboard.launch as launch; launch.serve(pathlib.Path(sys.argv[1]), sys.argv[2:])"
)


@contextmanager
def served(*settings, folder=ROOT / "notebooks", before="pass"):
    """A server of its own, where the limits can be reached; `before` is what Python does first."""
    port = free_port()
    command = [sys.executable, "-c", f"{before}; {SERVE}", str(folder), "--no-browser", f"--port={port}", *settings]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    server = Server(f"http://localhost:{port}", process)
    try:
        server.wait()
        yield server
    finally:
        process.terminate()
        process.wait(timeout=30)


def kernels(server):
    """Return the kernels of a server, the children of the process that they are forked from."""
    return [kernel for child in psutil.Process(server.process.pid).children() for kernel in _children(child)]


def _children(process):
    try:
        return process.children()
    except psutil.NoSuchProcess:  # ended meanwhile
        return []


def connections(server):
    """Return the connections of a server's visitors."""
    port = int(server.url.rpartition(":")[2])
    every = psutil.Process(server.process.pid).net_connections()
    return [each for each in every if each.status == "ESTABLISHED" and each.laddr.port == port]


def until(holds):
    """Wait for what has to come; return whether it has."""
    for _ in range(600):
        if holds():
            return True
        time.sleep(0.1)
    return False


def get(url, path):
    """Return the status and the text of an answer, for a path that is sent as it stands."""
    return _asked(url, "GET", path)


def leave(url, kernel, cookie, wait=False):
    """Say that a page is left, as Voilà's script does, which does not wait; return the status if one is waited for."""
    headers = {"Cookie": f"_xsrf={cookie}", "Content-Type": "application/x-www-form-urlencoded"}
    return _asked(url, "POST", f"/voila/api/shutdown/{kernel}", urlencode({"_xsrf": cookie}), headers, wait)[0]


def _asked(url, method, path, body=None, headers=None, wait=True):
    connection = HTTPConnection(urlsplit(url).netloc, timeout=60)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse() if wait else None
        return (answer.status, answer.read().decode(errors="replace")) if answer else (None, "")
    finally:
        connection.close()


def kernel_of(page):
    """Return the name of the kernel that stands in a page."""
    return re.search(r'"kernelId":\s*"([0-9a-f-]+)"', page)[1]


def opened(url, name, query=""):
    """Return a page's text, and free the kernel that was started for it."""
    status, page = get(url, f"/voila/render/{name}.ipynb?{query}")
    if status == 200:
        Socket(url, kernel_of(page)).leave()
    return page


def values(states):
    """Return the HTML that a page shows, each with its classes, from the states of its widgets."""
    said = [(each["_dom_classes"], each["value"]) for each in states.values() if each["_model_name"] == "HTMLModel"]
    (page,) = [each["shown"] for each in states.values() if "shown" in each]
    outputs = [each for each in page["outputs"].values() if each["kind"] == "html"]
    return said + [(each["style"].split(), each["value"]) for each in outputs]


def output(states, name):
    """Return what a page shows in its output of a name, from the states of its widgets."""
    return next(value for classes, value in values(states) if name in classes)


def framed(kind, content, channel="shell", file=None, **header):
    """Return a message in the form of Jupyter's sockets: the places of its pieces, then the pieces."""
    own = {"msg_id": uuid.uuid4().hex, "msg_type": kind, "username": "", "session": "x", "version": "5.3"}
    parts = [json.dumps(each).encode() for each in (own | header, {}, {"version": "1.0.0"}, content)]
    pieces = [channel.encode(), *parts, *([] if file is None else [file])]
    places = [8 * (len(pieces) + 2)]
    for piece in pieces:
        places.append(places[-1] + len(piece))
    return b"".join(number.to_bytes(8, "little") for number in (len(places), *places)) + b"".join(pieces)


def read(message):
    """Return the header and the content of such a message."""
    count = int.from_bytes(message[:8], "little")
    places = [int.from_bytes(message[8 * place : 8 * place + 8], "little") for place in range(1, count + 1)]
    header, content = (json.loads(message[places[each] : places[each + 1]]) for each in (1, 4))
    return {"header": header, "content": content}


class Socket:
    """The socket of a page's kernel, in the form that Jupyter's protocol has."""

    def __init__(self, url, kernel, origin=None, form=FORM):
        """Connect; a server that refuses raises HTTPClientError."""
        self.url, self.kernel = url, kernel
        self.loop, self.reading, self.ended = asyncio.new_event_loop(), None, False
        # a loop of its own: a browser of the same session has one in this thread
        self.thread = Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        address = f"{url.replace('http', 'ws')}/api/kernels/{kernel}/channels"
        request = HTTPRequest(address, headers={"Origin": origin or url})
        try:
            self.channel = self._run(self._connected(request, [form] if form else None))
        except BaseException:
            self._stop()
            raise

    async def _connected(self, request, forms):
        return await websocket_connect(request, max_message_size=1 << 28, subprotocols=forms)

    @property
    def cookie(self):
        """What the server gave with the connection, for leaving."""
        return re.search(r"_xsrf=([^;]*)", self.channel.headers["Set-Cookie"])[1]

    def leave(self):
        """Free the kernel as a page does that is left, and hang up."""
        leave(self.url, self.kernel, self.cookie)
        self.close()

    def close(self):
        """Hang up, if that has not been done."""
        if not self.loop.is_closed():
            self._run(self._closed())
            self._stop()

    async def _closed(self):
        self.channel.close()
        while await self._next(60) is not None:
            pass

    def _run(self, work):
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()

    def _stop(self):
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()

    def send(self, kind, content, channel="shell", **more):
        """Send a message; `file` goes along as its binary part, other words into its header."""
        self.write(framed(kind, content, channel, **more))

    def write(self, message):
        """Send anything; a server may hang up before it has all."""
        self.flood([message])

    def read(self, seconds):
        """Return the next message, None when there is none for some seconds or the server has hung up."""
        try:
            found = self._run(self._next(seconds))
        except TimeoutError:
            return None
        return read(found) if isinstance(found, bytes) else None

    async def _next(self, seconds):
        if self.ended:
            return None
        # a wait that runs out leaves its reading to the next one, so that no message is lost
        self.reading = self.reading or asyncio.ensure_future(self.channel.read_message())
        found = await asyncio.wait_for(asyncio.shield(self.reading), seconds)
        self.reading, self.ended = None, found is None
        return found

    def hung_up(self):
        """Read on until the server hangs up; return the number that it gives as its reason, if it came so far."""
        while self._run(self._next(60)) is not None:
            pass
        self.close()
        return self.channel.close_code

    def flood(self, messages):
        """Send messages and read nothing; stop when the server has hung up."""
        self._run(self._flooded(messages))

    async def _flooded(self, messages):
        try:
            for message in messages:
                await self.channel.write_message(message, binary=isinstance(message, bytes))
        except (WebSocketClosedError, StreamClosedError):
            pass

    def until(self, kind, times=1):
        """Return the kinds of messages until one kind has come, so many times."""
        heard = []
        while heard.count(kind) < times:
            heard.append(self.read(60)["header"]["msg_type"])
        return heard

    def widgets(self, heard=None):
        """Return the state of every widget of the page by its name, after all that was asked before is done.

        `heard` takes the kinds of the messages that come first.
        """
        comm = uuid.uuid4().hex
        self.send("comm_open", {"comm_id": comm, "target_name": CONTROL, "data": {}})
        self.send("comm_msg", {"comm_id": comm, "data": {"method": "request_states"}})
        while (message := self.read(60)) is not None:
            kind, content = message["header"]["msg_type"], message["content"]
            if kind == "comm_msg" and content["comm_id"] == comm and content["data"]["method"] == "update_states":
                return {name: each["state"] for name, each in content["data"]["states"].items()}
            if heard is not None:
                heard.append(kind)
        return {}

    def set(self, widget, **state):
        """Set traits of a widget to anything, as a front end may."""
        self.tell(widget, method="update", state=state)

    def tell(self, widget, file=None, **data):
        """Send a widget any message."""
        self.send("comm_msg", {"comm_id": widget, "data": data}, file=file)

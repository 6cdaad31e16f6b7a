"""A visitor who speaks to the server without a browser: pages by HTTP, a page's kernel by its socket."""

from __future__ import annotations

import asyncio
import json
import re
import uuid
from http.client import HTTPConnection
from threading import Thread
from urllib.parse import urlsplit

from tornado.httpclient import HTTPRequest
from tornado.websocket import websocket_connect

CONTROL = "jupyter.widget.control"


def get(url, path):
    """Return the status and the text of an answer, for a path that is sent as it stands."""
    connection = HTTPConnection(urlsplit(url).netloc, timeout=60)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode(errors="replace")
    finally:
        connection.close()


def kernel_of(page):
    """Return the name of the kernel that stands in a page."""
    return re.search(r'"kernelId":\s*"([0-9a-f-]+)"', page)[1]


def opened(url, name, query=""):
    """Return a page's text, and ask the kernel that was started for it to end."""
    status, page = get(url, f"/voila/render/{name}.ipynb?{query}")
    if status == 200:
        Socket(url, kernel_of(page)).close()
    return page


class Socket:
    """The socket of a page's kernel, in the form that Jupyter's protocol has."""

    def __init__(self, url, kernel, origin=None):
        """Connect; a server that refuses raises HTTPClientError."""
        self.loop, self.reading = asyncio.new_event_loop(), None
        # a loop of its own: a browser of the same session has one in this thread
        self.thread = Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        address = f"{url.replace('http', 'ws')}/api/kernels/{kernel}/channels"
        request = HTTPRequest(address, headers={"Origin": origin or url})
        try:
            self.channel = self._run(self._connected(request))
        except BaseException:
            self._stop()
            raise

    async def _connected(self, request):
        return await websocket_connect(request, max_message_size=1 << 28)

    def close(self):
        """Ask the kernel to end, and hang up."""
        self.send("shutdown_request", {"restart": False}, "control")
        self.read(5)
        self.loop.call_soon_threadsafe(self.channel.close)
        self._run(asyncio.sleep(0.1))
        self._stop()

    def _run(self, work):
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()

    def _stop(self):
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()

    def send(self, kind, content, channel="shell"):
        """Send a message and return its name."""
        name = uuid.uuid4().hex
        header = {"msg_id": name, "msg_type": kind, "username": "", "session": "x", "version": "5.3"}
        message = {
            "header": header,
            "parent_header": {},
            "metadata": {"version": "1.0.0"},
            "content": content,
            "channel": channel,
        }
        self._run(self._written(json.dumps(message)))
        return name

    async def _written(self, text):
        await self.channel.write_message(text)

    def read(self, seconds):
        """Return the next message, None when there is none for some seconds or the server has hung up."""
        try:
            found = self._run(self._next(seconds))
        except TimeoutError:
            return None
        return json.loads(found) if isinstance(found, str) else {"header": {"msg_type": "binary"}} if found else None

    async def _next(self, seconds):
        # a wait that runs out leaves its reading to the next one, so that no message is lost
        self.reading = self.reading or asyncio.ensure_future(self.channel.read_message())
        found = await asyncio.wait_for(asyncio.shield(self.reading), seconds)
        self.reading = None
        return found

    def widgets(self):
        """Return the state of every widget of the page, by its name."""
        comm = uuid.uuid4().hex
        self.send("comm_open", {"comm_id": comm, "target_name": CONTROL, "data": {}})
        self.send("comm_msg", {"comm_id": comm, "data": {"method": "request_states"}})
        while (message := self.read(20)) is not None:
            data = message.get("content", {}).get("data", {}) if message["header"]["msg_type"] == "comm_msg" else {}
            if data.get("method") == "update_states":
                return {name: each["state"] for name, each in data["states"].items()}
        return {}

    def set(self, widget, **state):
        """Set traits of a widget to anything, as a front end may."""
        return self.send("comm_msg", {"comm_id": widget, "data": {"method": "update", "state": state}})

"""A real Voilà and a real browser, one of each for the whole run."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field

import pytest
from browser import ARGUMENTS, MISSING, find

READY = ".answer .big"
DRAWN = """() => {
  const charts = [...document.querySelectorAll(".memscape-chart")].filter((box) => box.clientWidth);
  return charts.length && charts.every((box) => box.querySelector(".memscape-bars"));
}"""
# a shell that starts the tests in the background has interrupts ignored, and so would every server they start
signal.signal(signal.SIGINT, signal.default_int_handler)


@dataclass
class Server:
    """A running `memscape`."""

    url: str
    process: subprocess.Popen

    def wait(self) -> None:
        """Wait until it listens."""
        port = int(self.url.rpartition(":")[2])
        for _ in range(300):
            with socket.socket() as door:
                if door.connect_ex(("127.0.0.1", port)) == 0:
                    return
            time.sleep(0.1)

    def page(self, name: str, query: str = "") -> str:
        """Return the address of a page."""
        return f"{self.url}/voila/render/{name}.ipynb" + (f"?{query}" if query else "")


@dataclass
class Visit:
    """A page in a browser tab, and what went wrong on it."""

    tab: object
    server: Server
    complaints: list[str] = field(default_factory=list)

    def open(self, name: str, query: str = "") -> Visit:
        """Open a page of the server and wait until it answers, with all its charts."""
        self.tab.goto(self.server.page(name, query))
        self.tab.wait_for_selector(READY)
        self.tab.wait_for_function(DRAWN)
        return self

    @property
    def answer(self) -> str:
        """The headline and the sentence below it."""
        return self.tab.inner_text(".answer")

    def until(self, expression: str, argument: object = None) -> None:
        """Wait until a JavaScript expression holds."""
        self.tab.wait_for_function(expression, arg=argument)


def free_port():
    """Return a port of this machine that nobody uses."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture(scope="session")
def server():
    """Serve the notebooks as a user would: `memscape` on a free port of this machine."""
    port = free_port()
    command = [sys.executable, "-m", "memscape.dashboard.launch", "--no-browser", f"--port={port}"]
    # every test is a visitor, and kernels outlive their visitors
    command.append("--CappedKernels.most=500")
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    server = Server(f"http://localhost:{port}", process)
    server.wait()
    yield server
    process.terminate()
    process.wait(timeout=30)


@pytest.fixture(scope="session")
def chromium():
    """Start the browser that `make test` found or installed."""
    from playwright.sync_api import sync_playwright

    path = find()
    if path is None:
        pytest.fail(MISSING, pytrace=False)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS), env=dict(os.environ))
        yield browser
        browser.close()


@pytest.fixture
def visit(server, chromium):
    """Return what opens a tab: width, height, colour scheme; every complaint of its pages is kept."""
    contexts = []

    def start(width: int = 1440, height: int = 900, scheme: str = "light") -> Visit:
        context = chromium.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        contexts.append(context)
        seen = Visit(context.new_page(), server)
        say = seen.complaints.append
        seen.tab.on("console", lambda message: message.type == "error" and say(f"console: {message.text}"))
        seen.tab.on("pageerror", lambda error: say(f"page error: {error}"))
        own = (server.url, server.url.replace("http", "ws"), "blob:", "data:")
        seen.tab.on("request", lambda request: request.url.startswith(own) or say(f"request: {request.url}"))
        seen.tab.on("websocket", lambda channel: channel.url.startswith(own) or say(f"socket: {channel.url}"))
        return seen

    yield start
    for context in contexts:
        context.close()

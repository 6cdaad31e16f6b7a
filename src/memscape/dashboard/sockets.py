"""What a page and its kernel say to each other: in one form, in small pieces, and not more than a reader can ask."""

from __future__ import annotations

import struct
from functools import partial
from time import monotonic
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

from jupyter_server.services.kernels.connection.channels import ZMQChannelsWebsocketConnection
from traitlets import Int

FORM = "v1.kernel.websocket.jupyter.org"
STATES = "jupyter.widget.control"  # what tells a page the state of its widgets
ASKED = {"comm_open", "comm_msg", "comm_close", "comm_info_request", "kernel_info_request"}
# neither output nor tracebacks, which name files of the server: a page shows what its widgets hold
ANSWERED = {"comm_open", "comm_msg", "comm_close", "comm_info_reply", "kernel_info_reply", "status", "shutdown_reply"}
PIECES = (4, 5)  # header, parent, metadata and content, and one file at most
BYTES_PER_MESSAGE = 10_000  # a long message counts as several
REFUSED, TOO_MANY = 1008, 1013


class PageSocket(ZMQChannelsWebsocketConnection):
    """The socket between a page and its kernel; who breaks its rules is hung up on, and may connect again."""

    most_sockets = Int(4, min=1, help="The most sockets of one page: it has one, and another after a gap.", config=True)
    longest = Int(64 * 1024, help="The most bytes of a message, not counting a file.", config=True)
    burst = Int(2000, help="The most messages of a page at once.", config=True)
    per_second = Int(100, help="Messages a second that a page may send for long.", config=True)
    unread = Int(32 * 2**20, help="The most bytes that wait for a page that does not read them.", config=True)
    # what each kernel may still be asked, over all its sockets, and since when
    allowances: ClassVar[WeakKeyDictionary[Any, tuple[float, float]]] = WeakKeyDictionary()
    waiting, hung_up = 0, False

    async def prepare(self) -> None:
        """Let the page connect, with the cookie that Voilà's script must show when it frees the kernel on leaving."""
        await super().prepare()
        self.websocket_handler.xsrf_token  # noqa: B018  (read, it is set)

    def connect(self) -> Any:
        """Connect, unless the page has sockets enough."""
        # one movement of a slider is answered by several small messages: else each waits until the one before has been
        # acknowledged, which a browser does after 40 ms
        self.websocket_handler.set_nodelay(True)
        connected = super().connect()
        if connected and self.multi_kernel_manager.kernel_model(self.kernel_id)["connections"] > self.most_sockets:
            self._hang_up(TOO_MANY, "too many sockets")
        return connected

    def handle_incoming_message(self, incoming_msg: Any) -> None:
        """Pass on what a page may say."""
        if self.hung_up:
            return
        places = places_of(incoming_msg) if self.subprotocol == FORM and isinstance(incoming_msg, bytes) else None
        if places is None or places[5] - places[0] > self.longest:
            self._hang_up(REFUSED, "not a message of a page")
        elif not self._spend(1 + len(incoming_msg) / BYTES_PER_MESSAGE):
            self._hang_up(REFUSED, "too many messages")
        elif self._may_ask(incoming_msg[places[1] : places[2]], incoming_msg[places[4] : places[5]]):
            super().handle_incoming_message(incoming_msg)

    def _may_ask(self, header: bytes, content: bytes) -> bool:
        """Whether a page has use for a message: it moves the widgets that are there, and makes none."""
        kind = self.session.unpack(header)["msg_type"]
        return kind in ASKED and (kind != "comm_open" or self.session.unpack(content)["target_name"] == STATES)

    def handle_outgoing_message(self, stream: Any, outgoing_msg: list[Any]) -> None:
        """Pass on what a page is to hear."""
        _, pieces = self.session.feed_identities(outgoing_msg)
        if not self.hung_up and self.session.unpack(pieces[1])["msg_type"] in ANSWERED:
            super().handle_outgoing_message(stream, outgoing_msg)

    @property
    def write_message(self) -> Any:
        """What sends a message and counts it until it has been read."""
        return self._write

    def _write(self, message: bytes, binary: bool = False) -> None:
        if self.waiting > self.unread:
            self._hang_up(REFUSED, "nothing is read")
            return
        self.waiting += len(message)
        sent = self.websocket_handler.write_message(message, binary=binary)
        sent.add_done_callback(partial(self._read, len(message)))

    def _read(self, size: int, sent: Any) -> None:
        self.waiting -= size
        if not sent.cancelled():
            sent.exception()  # the socket was closed meanwhile: nobody is there to be told

    def _spend(self, messages: float) -> bool:
        """Take messages from the kernel's allowance, which grows again with time."""
        now = monotonic()
        left, then = self.allowances.get(self.kernel_manager, (float(self.burst), now))
        left = min(left + (now - then) * self.per_second, self.burst) - messages
        self.allowances[self.kernel_manager] = max(left, 0.0), now
        return left >= 0

    def _hang_up(self, code: int, reason: str) -> None:
        self.hung_up = True
        self.log.warning("Hanging up on a page of kernel %s: %s.", self.kernel_id, reason)
        self.websocket_handler.close(code, reason)


def places_of(message: bytes) -> tuple[int, ...] | None:
    """Return where the pieces of a message begin and the last one ends; None for what is no message.

    Jupyter Server 2.21 believes what a message says of itself: one of 72 bytes that announces fifty million pieces
    takes 4 GB of the server's memory.
    """
    count = int.from_bytes(message[:8], "little")
    if count - 2 not in PIECES or len(message) < 8 * (count + 1):
        return None
    places = struct.unpack_from(f"<{count}Q", message, 8)
    whole = places[0] == 8 * (count + 1) and places[-1] == len(message)
    return places if whole and list(places) == sorted(places) else None

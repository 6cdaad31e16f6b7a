"""How many calculations run at once, and how long: one kernel for each open page, until its visitor has gone."""

from __future__ import annotations

from collections import deque
from datetime import UTC, datetime
from typing import Any

from jupyter_server.services.kernels.kernelmanager import AsyncMappingKernelManager
from tornado.web import HTTPError
from traitlets import Int

FULL = 503
KEPT = 200  # messages for a page whose connection is lost; what is in flight is a dozen


class CappedKernels(AsyncMappingKernelManager):
    """Kernels for visitors, up to a limit: the memory of a server is what its operator gave, not what visitors ask.

    A page that is left frees its kernel at once. `cull_idle_timeout` is for pages whose connection was lost: a
    notebook computer that sleeps finds its calculation again within that time.
    """

    starting = 0  # kernels that are asked for and not yet there: visitors may come all at once
    most = Int(60, min=1, help="The most kernels that run at once; each takes about 65 MB.", config=True)
    unopened = Int(
        300, help="Seconds until a kernel ends whose page nobody opened, or which gives no sign of life.", config=True
    )
    untouched = Int(3600, help="Seconds until a kernel ends whose page is open, but not touched.", config=True)

    def __init__(self, **given: Any) -> None:
        """Start with no kernel."""
        super().__init__(**given)
        self.seen: dict[str, datetime] = {}  # when the browser of a page was last there

    async def start_kernel(self, **given: Any) -> str:  # type: ignore[override]
        """Start a kernel for a visitor; refuse where the limit is reached, until somebody has left."""
        if len(self.list_kernel_ids()) + self.starting >= self.most:
            raise HTTPError(FULL, reason="All places are taken")
        self.starting += 1
        try:
            started: str = await super().start_kernel(**given)
        finally:
            self.starting -= 1
        return started

    def notify_connect(self, kernel_id: str) -> None:
        """Note that a browser has opened the page."""
        super().notify_connect(kernel_id)
        self.seen[kernel_id] = datetime.now(UTC)

    def notify_disconnect(self, kernel_id: str) -> None:
        """Note that it has gone, or lost its connection."""
        super().notify_disconnect(kernel_id)
        self.seen[kernel_id] = datetime.now(UTC)

    def start_buffering(self, kernel_id: str, session_key: str, channels: Any) -> None:
        """Keep the last messages for a page that comes back, not all that its kernel may have been asked to say."""
        super().start_buffering(kernel_id, session_key, channels)
        self._kernel_buffers[kernel_id]["buffer"] = deque(maxlen=KEPT)

    async def cull_kernels(self) -> None:
        """End the kernels that nobody uses."""
        running = set(self.list_kernel_ids())
        self.seen = {name: then for name, then in self.seen.items() if name in running}
        await super().cull_kernels()

    async def cull_kernel_if_idle(self, kernel_id: str) -> None:
        """End a kernel whose page is away, untouched or was never there for too long."""
        kernel: Any = self.get_kernel(kernel_id)
        connected = self.kernel_model(kernel_id)["connections"]
        since, most = kernel.last_activity, self.untouched
        if kernel_id not in self.seen or (connected and kernel.execution_state == "busy"):
            most = self.unopened
        elif not connected:
            since, most = self.seen[kernel_id], self.cull_idle_timeout
        if (datetime.now(UTC) - since).total_seconds() > most:
            self.log.info("Ending kernel %s: %d connections, nothing for more than %d s.", kernel_id, connected, most)
            await self.shutdown_kernel(kernel_id)

"""How many calculations run at once: one kernel for each open page, and a clear word where there are no more."""

from __future__ import annotations

from typing import Any

from jupyter_server.services.kernels.kernelmanager import AsyncMappingKernelManager
from tornado.web import HTTPError
from traitlets import Int

FULL = 503


class CappedKernels(AsyncMappingKernelManager):
    """Kernels for visitors, up to a limit: the memory of a server is what its operator gave, not what visitors ask."""

    starting = 0  # kernels that are asked for and not yet there: visitors may come all at once
    most = Int(60, min=1, help="The most kernels that run at once; each takes about 65 MB.", config=True)

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

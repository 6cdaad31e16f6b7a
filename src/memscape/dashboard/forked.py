"""Kernels that start in a moment: each is a fork of one process that has imported everything a page needs.

A kernel of its own takes most of a second to import what all kernels import alike. Here that is done once, in a
process that does nothing else (the fork server of `multiprocessing`), and what is imported is shared in memory.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib import import_module
from multiprocessing import get_all_start_methods, get_context, parent_process
from threading import Thread
from typing import Any, cast

from jupyter_client.provisioning.local_provisioner import LocalProvisioner

FORKING = "forkserver" in get_all_start_methods()
# named rather than imported: the server itself needs none of it
PRELOADED = "memscape.dashboard.preloaded"


def begin() -> None:
    """Start the process that kernels are forked from, ahead of the first visitor; where nothing forks, do nothing."""
    if FORKING:
        os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"  # else the debugger says that it cannot see all modules
        _context().Process(target=import_module, args=(PRELOADED,), daemon=True).start()


class ForkedProvisioner(LocalProvisioner):
    """Starts a kernel as a fork; a command that is no kernel of Python, or a system without forks, is run as usual."""

    async def launch_kernel(self, cmd: list[str], **given: Any) -> Any:
        """Start the kernel whose command is given; return how to connect to it."""
        if not FORKING or "ipykernel_launcher" not in cmd:
            return await super().launch_kernel(cmd, **given)
        arguments = cmd[cmd.index("ipykernel_launcher") + 1 :]
        # names of the environment may be members of an enumeration, which a fork would import at length
        environment = {str.__str__(name): str.__str__(value) for name, value in given.get("env", os.environ).items()}
        task = _context().Process(target=_run, args=(arguments, environment, given.get("cwd")), daemon=True)
        task.start()
        self.process, self.pid = cast(Any, Forked(task)), task.pid
        return self.connection_info


class Forked:
    """A forked kernel with the manners of `subprocess.Popen`, which is what its keeper expects."""

    stdin = stdout = stderr = None

    def __init__(self, task: Any) -> None:
        """Take a process of `multiprocessing`."""
        self.task, self.pid = task, task.pid

    def poll(self) -> int | None:
        """Return the exit status, None while it runs."""
        status: int | None = self.task.exitcode
        return status

    def wait(self) -> int | None:
        """Wait for the end; return the exit status."""
        self.task.join()
        return self.poll()

    def send_signal(self, number: int) -> None:
        """Send a signal, if there still is something to send it to."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once."""
        self.task.kill()

    def terminate(self) -> None:
        """Ask it to end."""
        self.task.terminate()


def _context() -> Any:
    context = get_context("forkserver")
    context.set_forkserver_preload([PRELOADED])
    return context


def _run(arguments: Sequence[str], environment: Mapping[str, str], folder: str | None) -> None:
    """What a fork does: become a kernel."""
    import ipywidgets
    from ipykernel.kernelapp import IPKernelApp

    os.environ.clear()
    os.environ.update(environment)
    if folder:
        os.chdir(folder)
    Thread(target=_end_with_server, daemon=True).start()
    app = IPKernelApp.instance(parent_handle=1)  # started by a program: without one it tells the terminal how to stop
    app.initialize(list(arguments))
    # imported before there was a kernel, the widgets have not yet told one what they answer to
    ipywidgets.load_ipython_extension(app.shell)
    app.start()
    app.close()  # a fork ends without what a process does at its exit: without this, its last word can be lost


def _end_with_server() -> None:
    """End when the server has, even if it was killed; the fork server ends after its last fork."""
    server = parent_process()
    if server is not None:
        server.join()
    os._exit(1)

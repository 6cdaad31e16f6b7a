"""Kernels are forks of one process: each visitor still has a calculation of his own, and none outlives its server."""

from __future__ import annotations

import shutil
import signal

import psutil
import pytest
from hostile import Socket, get, kernel_of, kernels, output, served, until
from published import ROOT

PAGE = "/voila/render/03_kv_cache.ipynb?tokens={}"

pytestmark = pytest.mark.browser


def _visitor(server, tokens):
    return Socket(server.url, kernel_of(get(server.url, PAGE.format(tokens))[1]))


def _both(states):
    return output(states, "answer"), output(states, "said")


def test_kernels_of_two_visitors_are_two_forks_with_nothing_in_common():
    """Neither the settings of the address nor a name of a widget, which is drawn at random."""
    with served() as server:
        visitors = [_visitor(server, tokens) for tokens in (1024, 131_072)]
        assert len(kernels(server)) == 2 and len({each.ppid() for each in kernels(server)}) == 1
        one, other = (visitor.widgets() for visitor in visitors)
        assert "1,024 tokens" in output(one, "answer") and "131,072 tokens" in output(other, "answer")
        assert not set(one) & set(other)
        for visitor in visitors:
            visitor.leave()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_no_kernel_outlives_its_server(how):
    """Asked to end, by Ctrl-C or killed, with a page that is open and one that nobody opened."""
    with served() as server:
        visitor = _visitor(server, 1024)
        get(server.url, PAGE.format(2048))
        every = psutil.Process(server.process.pid).children(recursive=True)
        assert len(kernels(server)) == 2
        server.process.send_signal(how)
        assert not psutil.wait_procs(every, timeout=60)[1]
        visitor.close()


def test_kernel_that_has_crashed_is_started_again():
    """As the keeper of kernels does with any other; its page says that the controls are dead."""
    with served() as server:
        visitor = _visitor(server, 1024)
        (crashed,) = kernels(server)
        crashed.kill()
        assert until(lambda: kernels(server) not in ([], [crashed]))
        visitor.leave()
        assert until(lambda: not kernels(server))


def test_where_nothing_forks_a_kernel_starts_as_usual():
    """As on Windows: slower, and the same page."""
    with served() as forking, served(before="import memscape.dashboard.forked as f; f.FORKING = False") as server:
        usual, forked = (_visitor(each, 1024) for each in (server, forking))
        assert output(usual.widgets(), "answer") == output(forked.widgets(), "answer")
        commands = [each.cmdline() for each in psutil.Process(server.process.pid).children()]
        assert any("ipykernel_launcher" in command for command in commands)
        usual.close()
        forked.close()


def test_link_is_restored_by_a_kernel_that_was_there_before_its_visitor(tmp_path):
    """Each visitor's own settings, clamped with a note where they must be, as by a kernel of the usual kind.

    8,192 tokens are what the page begins with, so that kernel has nothing left to do.
    """
    shutil.copy(ROOT / "notebooks" / "03_kv_cache.ipynb", tmp_path)
    ahead = ("--preheat_kernel=True", "--pool_size=1")
    with served(folder=tmp_path) as usual, served(*ahead, folder=tmp_path) as server:
        for tokens in (1024, 8192, 131_072, "many"):
            assert until(lambda: len(kernels(server)) == 1)
            seen = [_visitor(each, tokens) for each in (usual, server)]
            plain, heated = (_both(each.widgets()) for each in seen)
            assert plain == heated and ("many" in heated[1]) is (tokens == "many")
            for each in seen:
                each.leave()

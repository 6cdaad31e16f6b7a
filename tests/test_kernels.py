"""Places for visitors: how many there are, and when they are free again."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
from hostile import Socket, get, kernel_of, kernels, served, until

EVERY_SECOND = "--MappingKernelManager.cull_interval=1"

pytestmark = pytest.mark.browser


def test_server_has_a_most_of_visitors():
    """However many come at once: one more than it was set for is told so, and that it can come back."""
    with served("--CappedKernels.most=1") as server:
        with ThreadPoolExecutor(6) as visitors:
            paths = ["/voila/render/03_kv_cache.ipynb"] * 6
            seen = sorted(visitors.map(partial(get, server.url), paths))
        assert [status for status, _ in seen] == [200, 503, 503, 503, 503, 503]
        status, shown = get(server.url, "/voila/render/03_kv_cache.ipynb")
        assert status == 503 and "All places are taken" in shown and "Try again" in shown
        Socket(server.url, kernel_of(seen[0][1])).leave()
        assert until(lambda: get(server.url, "/voila/render/03_kv_cache.ipynb")[0] == 200)


def test_page_that_is_left_frees_its_kernel_and_comes_back_anew(visit):
    """To another page, by reloading, by closing: no kernel stays, no error is logged; back, the settings are there."""
    with served() as server:
        seen = visit()
        seen.server = server
        seen.complaints.clear()
        seen.open("03_kv_cache", "model=llama-3.1-8b&tokens=4096")
        answer = seen.answer
        seen.tab.goto("about:blank")
        assert until(lambda: not kernels(server))
        seen.tab.go_back()
        seen.tab.wait_for_selector(".memscape-chart .memscape-bars")
        assert seen.answer == answer and len(kernels(server)) == 1
        # what a browser does with a page that it has kept whole
        with seen.tab.expect_navigation():
            seen.tab.evaluate("dispatchEvent(new PageTransitionEvent('pageshow', { persisted: true }))")
        seen.tab.wait_for_selector(".memscape-chart .memscape-bars")
        assert seen.answer == answer and until(lambda: len(kernels(server)) == 1)
        seen.tab.close(run_before_unload=True)
        assert until(lambda: not kernels(server))
        assert [each for each in seen.complaints if not each.startswith(("request: ", "socket: "))] == []


def test_page_whose_kernel_has_ended_says_so(visit):
    """However it ended; the settings are in the address."""
    seen = visit().open("03_kv_cache", "tokens=4096")
    Socket(seen.server.url, kernel_of(seen.tab.content())).leave()
    assert seen.tab.wait_for_selector(".dead[role=alert]:has-text('has stopped') a").is_visible()
    assert "tokens=4096" in seen.tab.url


def test_kernel_ends_whose_page_nobody_opened():
    """A robot, which runs no script."""
    with served(EVERY_SECOND, "--CappedKernels.unopened=1") as server:
        get(server.url, "/voila/render/03_kv_cache.ipynb")
        assert until(lambda: not kernels(server))


def test_kernel_ends_whose_page_is_open_and_untouched():
    """Who opens sockets and never speaks does not hold a place for ever."""
    with served(EVERY_SECOND, "--CappedKernels.untouched=1") as server:
        silent = Socket(server.url, kernel_of(get(server.url, "/voila/render/03_kv_cache.ipynb")[1]))
        assert "shutdown_reply" in silent.until("shutdown_reply")
        assert until(lambda: not kernels(server))
        silent.close()


def test_kernel_ends_whose_page_is_away_and_no_other():
    """A class looks at a page without moving a slider: it has an hour, not the minutes of a page that is away."""
    with served(EVERY_SECOND, "--MappingKernelManager.cull_idle_timeout=1") as server:
        looked_at, away = (
            Socket(server.url, kernel_of(get(server.url, "/voila/render/03_kv_cache.ipynb")[1])) for _ in range(2)
        )
        away.close()
        assert until(lambda: len(kernels(server)) == 1)
        assert len(looked_at.widgets()) > 20
        looked_at.leave()

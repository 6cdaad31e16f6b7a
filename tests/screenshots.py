"""`make screenshots`: the pictures of the README, taken of the real pages, light and dark."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from browser import ARGUMENTS, MISSING, find
from conftest import DRAWN, READY, Server, free_port
from playwright.sync_api import sync_playwright

FOLDER = Path(__file__).parents[1] / ".github"
SIZE = {"width": 1440, "height": 900}
# name of the picture, page, scenario, whether it begins with the controls
PICTURES = (
    ("overview", "index", "model=llama-3.1-405b", False),
    ("cluster", "06_cluster", "model=llama-3.1-405b&accelerator=A100 SXM 80GB&devices=8", True),
)


def main() -> None:
    """Serve the pages, take the pictures, and leave them where the README looks for them."""
    path = find()
    if path is None:
        sys.exit(MISSING)
    port = free_port()
    command = [sys.executable, "-m", "memscape.dashboard.launch", "--no-browser", f"--port={port}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    server = Server(f"http://localhost:{port}", process)
    try:
        server.wait()
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS))
            for scheme in ("light", "dark"):
                context = browser.new_context(viewport=SIZE, color_scheme=scheme)
                for name, page, query, inside in PICTURES:
                    _picture(context.new_page(), server.page(page, query), inside, FOLDER / f"{name}-{scheme}.png")
    finally:
        process.terminate()
        process.wait(timeout=30)


def _picture(tab, address: str, inside: bool, path: Path) -> None:
    """Open a page, go to its controls where that is asked for, and keep what is seen."""
    tab.goto(address)
    tab.wait_for_selector(READY)
    tab.wait_for_function(DRAWN)
    if inside:
        tab.evaluate("scrollTo(0, document.querySelector('.columns').getBoundingClientRect().top + scrollY - 24)")
    tab.wait_for_timeout(800)
    tab.screenshot(path=path)
    print(path.relative_to(FOLDER.parent))


if __name__ == "__main__":
    main()

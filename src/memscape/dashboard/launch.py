"""The launcher behind `memscape`: the notebooks as pages, served by Voilà with our template and nothing else open."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parents[1]
SHARE = Path(__file__).parent / "share" / "jupyter"
NEEDED = ("voila", "ipykernel", "ipywidgets", "anywidget", "plotly", "latex2mathml")
MISSING = 'the pages need {}; install them with: pip install "memscape[dashboard]"'
WIDGETS = "@jupyter-widgets/jupyterlab-manager/static"
SMALL = 1000  # bytes; what is smaller only names other scripts, and may not be asked for
# Voilà would load these for nothing: plotly's own renderer and a highlighter of code that is not shown
UNUSED_EXTENSIONS = ["jupyterlab-plotly", "jupyterlab_pygments"]


def notebooks() -> Path:
    """Return the folder of the notebooks: inside the package in a wheel, at the top level in a clone."""
    inside = PACKAGE / "notebooks"
    return inside if inside.is_dir() else PACKAGE.parents[1] / "notebooks"


def configuration() -> Any:
    """Return Voilà's configuration: one template, no file but the pages, kernels that end when nobody is there."""
    from traitlets.config import Config

    settings = Config()
    voila = settings.VoilaConfiguration
    voila.template = "memscape"
    voila.theme = "light"
    voila.allow_theme_override = voila.allow_template_override = "NO"
    voila.file_allowlist = []
    voila.extension_denylist = UNUSED_EXTENSIONS
    voila.page_config_hook = page_config
    settings.VoilaExporter.markdown_renderer_class = "memscape.dashboard.site.Lesson"
    voila.multi_kernel_manager_class = "memscape.dashboard.kernels.CappedKernels"
    settings.MappingKernelManager.cull_idle_timeout = 600
    settings.MappingKernelManager.cull_interval = 60
    settings.Voila.kernel_websocket_connection_class = "memscape.dashboard.sockets.PageSocket"
    # where kernels are made ahead (`--preheat_kernel=True`), the next one waits until the visitor's page is drawn
    settings.VoilaKernelManager.fill_delay = 3.0
    settings.ContentsManager.hide_globs = ["*"]  # Voilà lists a folder to who asks for voila/api/contents
    return settings


def page_config(usual: dict[str, Any], base_url: str, **_rest: Any) -> dict[str, Any]:
    """Return what Voilà tells a page: MathJax is a script that does nothing, and what widgets need is fetched ahead."""
    return usual | {
        "fullMathjaxUrl": f"{base_url}voila/templates/memscape/static/typesetter.js",
        "mathjaxConfig": "none",
        "ahead": [f"{base_url}voila/labextensions/{WIDGETS}/{name}" for name in _scripts_of_widgets()],
    }


@lru_cache(maxsize=1)
def _scripts_of_widgets() -> tuple[str, ...]:
    """The scripts that a page asks for one by one as it finds out what it holds."""
    from jupyter_core.paths import jupyter_path

    folders = (Path(path, WIDGETS) for path in jupyter_path("labextensions"))
    found = next((folder for folder in folders if folder.is_dir()), None)
    scripts = sorted(found.glob("[0-9]*.*.js")) if found else []
    return tuple(f"{path.name}?v={path.name.split('.')[1]}" for path in scripts if path.stat().st_size > SMALL)


def serve(folder: Path, arguments: Sequence[str]) -> None:
    """Serve the notebooks of a folder until the process is ended; the arguments go to Voilà."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        sys.exit(MISSING.format(" and ".join(missing)))
    # templates and kernels are looked for along JUPYTER_PATH; ours come first, so that the pages run on this very
    # Python even where another kernel named python3 is installed
    os.environ["JUPYTER_PATH"] = os.pathsep.join(filter(None, [str(SHARE), os.environ.get("JUPYTER_PATH")]))
    # each page has a kernel of its own: nobody else is to hear what its controls were set to
    os.environ["JUPYTER_WIDGETS_ECHO"] = "0"
    from memscape.dashboard import forked
    from memscape.dashboard.site import Memscape

    forked.begin()
    Memscape.launch_instance([str(folder), *arguments], config=configuration())


def main() -> None:
    """Serve the pages; what follows `memscape` on the command line goes to Voilà (`--port=8900 --no-browser`)."""
    serve(notebooks(), sys.argv[1:])


if __name__ == "__main__":
    main()

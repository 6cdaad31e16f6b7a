"""plotly.js as the `plotly` package ships it, packed for the way to a page."""

from __future__ import annotations

import gzip
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from memscape.problem import Problem


@lru_cache(maxsize=1)
def packed() -> bytes:
    """Return plotly.js in gzip's form, without importing plotly.

    Raises: Problem where the package is not installed.
    """
    spec = find_spec("plotly")
    if spec is None or spec.origin is None:
        raise Problem('charts need the package plotly; install it with pip install "memscape[dashboard]"')
    return gzip.compress((Path(spec.origin).parent / "package_data" / "plotly.min.js").read_bytes(), 6)

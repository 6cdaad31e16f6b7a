"""What every kernel does alike, to be done once: kernels are forks of the process that has imported this."""

from __future__ import annotations

import ipykernel.debugger  # that there is one is asked at every start
import ipykernel.ipkernel
import ipykernel.kernelapp  # noqa: F401
import pandas  # noqa: F401
from ipywidgets import Widget

from memscape.views import exercises, pages, text  # noqa: F401

# a page that has been opened once has imported its modules, read its tables and remembers what it worked out
for name in pages.__all__:
    getattr(pages, name)()
Widget.close_all()

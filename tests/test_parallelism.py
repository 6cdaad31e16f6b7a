"""Layout: degrees of parallelism."""

from __future__ import annotations

import numpy
import pytest

import memscape as ms


def test_a_layout_is_one_device_unless_asked():
    """DESIGN: every degree is 1, no stage of ZeRO, no sequence parallelism."""
    layout = ms.Layout()
    degrees = ("tensor", "pipeline", "data", "context", "expert", "interleave")
    assert [getattr(layout, name) for name in degrees] == [1] * 6
    assert (layout.zero, layout.sequence_parallel) == (0, False)


def test_degrees_may_be_arrays():
    """DESIGN: every quantity in a layout may be a number or a numpy array."""
    assert ms.Layout(data=numpy.array([1, 8, 64])).data.tolist() == [1, 8, 64]
    assert ms.Layout(tensor=numpy.int64(8)).tensor == 8


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"tensor": 0}, "tensor is 0; use whole numbers from 1"),
        ({"data": 2.5}, "data is 2.5; use whole numbers"),
        ({"pipeline": "two"}, "pipeline is two"),
        ({"context": numpy.array([1, -1])}, "context is an array from -1"),
        ({"zero": 4}, "zero is 4; use stage 0, 1, 2 or 3"),
        ({"zero": True}, "zero is True; use stage"),
        ({"sequence_parallel": 1}, "sequence_parallel is 1; use True or False"),
    ],
)
def test_a_layout_that_cannot_be_is_refused(fields, message):
    with pytest.raises(ms.Problem, match=message):
        ms.Layout(**fields)

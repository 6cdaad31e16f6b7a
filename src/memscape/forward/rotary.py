"""Rotary positions beside the usual ones of `blocks.py`: two halves apart, pairs of neighbours, complex numbers."""

from __future__ import annotations

from memscape.forward.operators import FP32, NEW, SAME
from memscape.forward.passes import Pass
from memscape.forward.tape import Sizes, Tensor


def rotate_halves(t: Pass, x: Tensor, first: Tensor, second: Tensor, name: str) -> Tensor:
    """Turn two halves of a head by tables of half its width, and join them."""
    cosine, sine = t.tables
    left, right = t.turned(first, cosine, f"{name} × cosine"), t.turned(second, sine, f"{name} × sine")
    turned = t.made(f"{name}, first half", [(left, SAME), (right, NEW)])
    left, right = t.turned(second, cosine, f"{name} × cosine"), t.turned(first, sine, f"{name} × sine")
    other = t.add(left, right, f"{name}, second half")
    del left, right
    return t.join(name, turned, other, columns=x.columns)


def rotate_split(t: Pass, x: Tensor, name: str) -> Tensor:
    """Turn a head that is split in the middle (gpt-oss)."""
    first, second = t.split(x, half(x), half(x))
    return rotate_halves(t, x, first, second, name)


def rotate_pairs(t: Pass, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """Turn pairs of neighbours: even and odd places are taken apart, and lie one after the other afterwards."""
    q_even, q_odd = t.stretch(q, half(q)), t.stretch(q, half(q))
    k_even, k_odd = t.stretch(k, half(k)), t.stretch(k, half(k))
    turned = rotate_halves(t, q, q_even, q_odd, "rotated query")
    return turned, rotate_halves(t, k, k_even, k_odd, "rotated key")


def half(x: Tensor) -> Sizes:
    """Half of a head."""
    *others, (name, size) = x.columns.items()
    return {**dict(others), f"half_{name}": size // 2}


def complex_table(t: Pass, width: Sizes) -> Tensor:
    """One complex number of fp32 parts per position and pair: as many bytes as one fp32 number per place."""
    t.part = "rotary table"
    return t.free("complex rotation", t.tokens, width, FP32)


def rotate_complex(t: Pass, q: Tensor, k: Tensor, together: bool = False) -> tuple[Tensor, Tensor]:
    """Turn queries and keys as complex numbers in fp32; `together`: both are turned before one is cast back."""
    (table,) = t.tables
    wide_q, wide_k = t.cast(q, FP32, "query in fp32"), t.cast(k, FP32, "key in fp32")
    turned_q = t.turned(wide_q, table, "rotated query in fp32")
    if not together:
        turned_q = t.cast(turned_q, q.dtype, "rotated query")
    turned_k = t.turned(wide_k, table, "rotated key in fp32")
    return t.cast(turned_q, q.dtype, "rotated query"), t.cast(turned_k, k.dtype, "rotated key")

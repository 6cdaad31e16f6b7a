"""CUDA's choices on other devices: fused dropout, the attention kernel, autocast's casting rules.

Needs torch (extra `measure`). On the meta device nothing is computed, and no kernel is chosen: what CUDA would choose
is written here. What a CUDA kernel keeps for backward is then declared by PyTorch itself.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

WIDEST_FLASH_HEAD = 256
# the lists of https://docs.pytorch.org/docs/stable/amp.html for CUDA
LOWER = """
    __matmul__ __rmatmul__ addbmm addmm addmv addr baddbmm bmm chain_matmul conv1d conv2d conv3d einsum linear matmul
    mm multi_dot mv prelu scaled_dot_product_attention
"""
FULL = """
    __pow__ __rpow__ acos asin binary_cross_entropy_with_logits cosh cosine_embedding_loss cosine_similarity
    cross_entropy cumprod cumsum dist erfinv exp expm1 group_norm hinge_embedding_loss kl_div l1_loss layer_norm log
    log10 log1p log2 log_softmax margin_ranking_loss mse_loss multi_margin_loss multilabel_margin_loss nll_loss norm
    normalize pdist poisson_nll_loss pow prod reciprocal renorm rms_norm rsqrt sinh smooth_l1_loss soft_margin_loss
    softmax softmin softplus sum tan triplet_margin_loss
"""
CASTS = dict.fromkeys(LOWER.split(), torch.bfloat16) | dict.fromkeys(FULL.split(), torch.float32)


class AsCuda(TorchFunctionMode):
    """Sends dropout and attention to CUDA's operators and, under autocast, casts as CUDA's autocast does.

    Attention is sent on the meta device alone: a CPU has none of these kernels. On CUDA nothing is changed.
    """

    def __init__(self, autocast: bool = False, caching: bool = True) -> None:
        """Start with an empty cache of weight copies."""
        super().__init__()
        self.autocast, self.caching = autocast, caching
        self.copies: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self.weight_copies: set[int] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a function as CUDA would."""
        args, kwargs = self._cast(getattr(func, "__name__", ""), args, kwargs or {})
        if func is torch.Tensor.__bool__ and args[0].is_meta:
            return True  # the one question asked of values: do all tokens belong to one sequence
        if func is F.dropout:
            return dropout(*args, **kwargs)
        if func is F.scaled_dot_product_attention and args[0].is_meta:
            return attention(*args, **kwargs)
        return func(*args, **kwargs)

    def forget(self) -> None:
        """Drop the cached copies, as autocast does when its block ends."""
        self.copies = {}

    def _cast(self, name: str, args: Any, kwargs: Any) -> Any:
        if not self.autocast or name not in CASTS:
            return args, kwargs
        cast = self._lower if CASTS[name] is torch.bfloat16 else _full
        return pytree.tree_map_only(torch.Tensor, cast, (args, kwargs))

    def _lower(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the tensor in bf16; a weight that is trained is copied once."""
        if tensor.dtype != torch.float32:
            return tensor
        if not (self.caching and tensor.requires_grad and tensor.is_leaf and not tensor._is_view()):
            return tensor.to(torch.bfloat16)
        if id(tensor) not in self.copies:
            copy = tensor.to(torch.bfloat16)
            self.copies[id(tensor)] = tensor, copy
            self.weight_copies.add(copy.untyped_storage()._cdata)
        return self.copies[id(tensor)][1]


def _full(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


def dropout(input: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> torch.Tensor:  # noqa: A002
    """Drop out as CUDA does: one fused operator, whose mask has one byte per element."""
    if not training or p == 0:
        return input
    return torch.ops.aten.native_dropout(input, p, True)[0]


def attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """Attend with the operator that CUDA would choose."""
    aten, given = torch.ops.aten, (query, key, value)
    kernel = chosen_kernel(*given, attn_mask, enable_gqa)
    if kernel == "math":
        math = aten._scaled_dot_product_attention_math
        return math(*given, attn_mask, dropout_p, is_causal, None, scale=scale, enable_gqa=enable_gqa)[0]
    if kernel == "flash":
        return aten._scaled_dot_product_flash_attention(*given, dropout_p, is_causal, False, scale=scale)[0]
    if key.shape[1] != query.shape[1]:  # this kernel knows no groups of heads
        key, value = (each.repeat_interleave(query.shape[1] // each.shape[1], 1) for each in (key, value))
    bias = None if attn_mask is None else _bias(attn_mask, query, key)
    efficient = aten._scaled_dot_product_efficient_attention
    return efficient(query, key, value, bias, True, dropout_p, is_causal, scale=scale)[0]


def chosen_kernel(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, grouped: bool
) -> str:
    """Return "flash", "efficient" or "math", as PyTorch chooses on CUDA."""
    if query.shape[1] != key.shape[1] and not grouped:
        return "math"
    head = query.shape[-1]
    if mask is not None or query.dtype == torch.float32 or value.shape[-1] != head or head > WIDEST_FLASH_HEAD:
        return "efficient"
    return "flash"


def _bias(mask: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """Return the mask as numbers to add to the scores, for every head."""
    if mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=query.dtype).masked_fill_(mask.logical_not(), float("-inf"))
    return mask.expand(*query.shape[:3], key.shape[2])

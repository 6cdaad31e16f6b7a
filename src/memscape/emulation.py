"""CUDA's choices on other devices: fused dropout, the attention kernel, autocast's casting rules."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

# the lists of https://docs.pytorch.org/docs/stable/amp.html for CUDA
LOWER = """__matmul__ addbmm addmm addmv addr baddbmm bmm chain_matmul multi_dot conv1d conv2d conv3d conv_tbc linear
matmul mm mv prelu scaled_dot_product_attention einsum __rmatmul__""".split()
FULL = """__pow__ __rpow__ acos asin binary_cross_entropy_with_logits cosh cosine_embedding_loss cosine_similarity cross_entropy cumprod
cumsum dist erfinv exp expm1 group_norm hinge_embedding_loss kl_div l1_loss layer_norm log log10 log_softmax log1p log2
margin_ranking_loss mse_loss multilabel_margin_loss multi_margin_loss nll_loss norm normalize pdist poisson_nll_loss pow
prod reciprocal rsqrt sinh smooth_l1_loss soft_margin_loss softmax softmin softplus sum renorm tan rms_norm
triplet_margin_loss""".split()


class AsCuda(TorchFunctionMode):
    """Sends dropout and attention to CUDA's operators and, under autocast, casts as CUDA's autocast does."""

    def __init__(self, autocast: bool = False, emulate: bool = True, caching: bool = True) -> None:
        """Start with an empty cache of weight copies."""
        super().__init__()
        self.autocast, self.emulate, self.caching = autocast, emulate, caching
        self.cache: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self.weight_copies: set[int] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a function as CUDA would."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if self.autocast and name in LOWER:
            args, kwargs = pytree.tree_map_only(torch.Tensor, self._lower, (args, kwargs))
        elif self.autocast and name in FULL:
            args, kwargs = pytree.tree_map_only(torch.Tensor, _full, (args, kwargs))
        if func is torch.Tensor.__bool__ and args[0].is_meta:
            return True  # the one question asked: is every token of the same sequence
        if self.emulate and func is F.dropout:
            return dropout(*args, **kwargs)
        if self.emulate and func is F.scaled_dot_product_attention:
            return attention(*args, **kwargs)
        return func(*args, **kwargs)

    def _lower(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the tensor in bf16; a leaf that is trained is copied once."""
        if tensor.dtype != torch.float32:
            return tensor
        if not (self.caching and tensor.requires_grad and tensor.is_leaf and not tensor._is_view()):
            return tensor.to(torch.bfloat16)
        if id(tensor) not in self.cache:
            self.cache[id(tensor)] = tensor, tensor.to(torch.bfloat16)
            self.weight_copies.add(self.cache[id(tensor)][1].untyped_storage()._cdata)
        return self.cache[id(tensor)][1]


def _full(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


def dropout(input: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> torch.Tensor:  # noqa: A002
    """Drop out as CUDA does: one fused operator, whose mask has one byte per element."""
    if not training or p == 0:
        return input
    return torch.ops.aten.native_dropout(input, p, True)[0]  # type: ignore[no-any-return]


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
    aten = torch.ops.aten
    kernel = chosen_kernel(query, key, value, attn_mask, enable_gqa)
    if kernel == "math":
        return aten._scaled_dot_product_attention_math(  # type: ignore[no-any-return]
            query, key, value, attn_mask, dropout_p, is_causal, None, scale=scale, enable_gqa=enable_gqa
        )[0]
    if kernel == "flash":
        return aten._scaled_dot_product_flash_attention(  # type: ignore[no-any-return]
            query, key, value, dropout_p, is_causal, False, scale=scale
        )[0]
    if key.shape[1] != query.shape[1]:
        key, value = (each.repeat_interleave(query.shape[1] // each.shape[1], 1) for each in (key, value))
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill_(attn_mask.logical_not(), float("-inf"))
    if attn_mask is not None:
        attn_mask = attn_mask.expand(query.shape[0], query.shape[1], query.shape[2], key.shape[2])
    return aten._scaled_dot_product_efficient_attention(  # type: ignore[no-any-return]
        query, key, value, attn_mask, True, dropout_p, is_causal, scale=scale
    )[0]


def chosen_kernel(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, grouped: bool
) -> str:
    """Return "flash", "efficient" or "math", as PyTorch chooses on CUDA."""
    if query.shape[1] != key.shape[1] and not grouped:
        return "math"
    head = query.shape[-1]
    if mask is not None or query.dtype == torch.float32 or value.shape[-1] != head or head > 256:
        return "efficient"
    return "flash"

"""The forward pass of each family, stage by stage, as transformers writes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from memscape.memory import blocks, dense
from memscape.memory.blocks import Pass
from memscape.memory.tape import Tensor
from memscape.model import LayerKind, Model
from memscape.problem import Problem, one_of

Step = Callable[[Pass, Tensor], Tensor]


@dataclass(frozen=True)
class Stage:
    """A part of the model that runs `count` times in a row, each time alike; a layer can be checkpointed."""

    name: str
    run: Step
    count: int = 1
    layer: bool = True


@dataclass(frozen=True)
class Recipe:
    """The blocks of a family: embedding, layer, final norm and head, loss.

    `embed` takes the pass alone and sets the tables and the mask that all layers share. `layer` also takes the kind of
    the layer. `checkpoints`: whether transformers can checkpoint it; `hands_mask`: whether it hands the mask to the
    checkpoint, which then keeps it. `stages` replaces the usual order of a decoder.
    """

    embed: Callable[[Pass], Tensor]
    layer: Callable[[Pass, Tensor, LayerKind], Tensor]
    head: Step
    loss: Step = blocks.causal_loss
    checkpoints: bool = True
    hands_mask: bool = False
    sdpa: bool = True
    stages: Callable[[Model], list[Stage]] | None = None


def recipe_of(model: Model) -> Recipe:
    """Return the recipe of a model's family; a family without one is refused."""
    if model.family not in RECIPES:
        raise Problem(
            f"what {model.label} keeps for backward is not described yet (family {model.family}); "
            f'use implementation "megatron" for the estimate of fused kernels, or a model of {one_of(RECIPES, 60)}'
        )
    return RECIPES[model.family]


def stages(model: Model) -> list[Stage]:
    """Return the layers of a model in order, alike neighbours as one stage."""
    recipe = recipe_of(model)
    if recipe.stages:
        return recipe.stages(model)
    found: list[Stage] = []
    for kind in model.layer_kinds:
        name = f"{kind.attention}{' experts' if kind.moe else ''} layer"
        count = found.pop().count + 1 if found and found[-1].name == name else 1
        found.append(Stage(name, partial(_layer, recipe.layer, kind), count))
    return found


def _layer(layer: Callable[[Pass, Tensor, LayerKind], Tensor], kind: LayerKind, t: Pass, x: Tensor) -> Tensor:
    t.mask = t.masks.get(kind.attention, t.mask)
    return layer(t, x, kind)


LLAMA = Recipe(dense.rotary_embed, dense.llama_layer, dense.llama_head)
GPT2 = Recipe(dense.gpt2_embed, dense.gpt2_layer, dense.layer_norm_head, hands_mask=True)

RECIPES: Mapping[str, Recipe] = {
    "gpt2": GPT2,
    "llama": LLAMA,
    "mistral": LLAMA,
    "qwen2": LLAMA,
}

"""The forward pass of each family, stage by stage, as transformers writes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from memscape.memory import blocks, dense, encoders, latent, mixtures, t5
from memscape.memory.blocks import Pass
from memscape.memory.stage import Stage, Step
from memscape.memory.tape import Tensor
from memscape.model import LayerKind, Model
from memscape.problem import Problem, one_of


@dataclass(frozen=True)
class Recipe:
    """The blocks of a family: embedding, layer, final norm and head, loss.

    `embed` takes the pass alone and sets the tables and the mask that all layers share. `layer` also takes the kind of
    the layer. `checkpoints`: whether transformers can checkpoint it; `hands_mask`: whether it hands the mask to the
    checkpoint, which then keeps it. `stages` stands in for `layer` where it is not one layer after the other.
    """

    embed: Callable[[Pass], Tensor]
    layer: Callable[[Pass, Tensor, LayerKind], Tensor] | None
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
    assert recipe.layer is not None
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
BERT = Recipe(encoders.bert_embed, encoders.bert_layer, encoders.masked_head, encoders.masked_loss)
ROBERTA = replace(BERT, embed=encoders.roberta_embed, head=partial(encoders.masked_head, gelu=True))
ALBERT = replace(BERT, embed=encoders.albert_embed, layer=None, stages=encoders.albert_stages, checkpoints=False)
T5 = Recipe(t5.encoder_embed, None, t5.t5_head, t5.t5_loss, stages=t5.t5_stages)
SOFTMAX_MIXTURE = Recipe(mixtures.embed, mixtures.softmax_layer, dense.llama_head)
DEEPSEEK = Recipe(latent.embed, mixtures.deepseek_layer, dense.llama_head)

RECIPES: Mapping[str, Recipe] = {
    "albert": ALBERT,
    "bert": BERT,
    "deepseek_v2": DEEPSEEK,
    "deepseek_v3": DEEPSEEK,
    "glm4_moe": replace(SOFTMAX_MIXTURE, layer=mixtures.glm_layer),
    "gpt2": GPT2,
    "gpt_oss": Recipe(mixtures.embed, mixtures.gpt_oss_layer, mixtures.gpt_oss_head, sdpa=False),
    "llama": LLAMA,
    "llama4_text": replace(SOFTMAX_MIXTURE, layer=mixtures.llama4_layer),
    "mistral": LLAMA,
    "mixtral": SOFTMAX_MIXTURE,
    "mt5": T5,
    "olmoe": SOFTMAX_MIXTURE,
    "phimoe": Recipe(mixtures.embed, mixtures.phimoe_layer, dense.layer_norm_head),
    "qwen2": LLAMA,
    "qwen2_moe": replace(SOFTMAX_MIXTURE, layer=mixtures.qwen2_layer),
    "qwen3_moe": SOFTMAX_MIXTURE,
    "roberta": ROBERTA,
    "t5": T5,
    "xlm-roberta": ROBERTA,
}

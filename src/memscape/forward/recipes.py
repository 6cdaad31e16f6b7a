"""The forward pass of each family, stage by stage, as transformers writes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from memscape.forward import blocks, classic, dense, encoders, falcon, gemma, latent, mixtures, neox, side_by_side, t5
from memscape.forward.blocks import Pass
from memscape.forward.operators import FP32
from memscape.forward.stage import Stage, Step
from memscape.forward.tape import Tensor
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
        name = f"{kind.attention}{' experts' if kind.moe else ''}{'' if kind.rotary else ' unrotated'} layer"
        count = found.pop().count + 1 if found and found[-1].name == name else 1
        found.append(Stage(name, partial(_layer, recipe.layer, kind), count))
    return found


def _layer(layer: Callable[[Pass, Tensor, LayerKind], Tensor], kind: LayerKind, t: Pass, x: Tensor) -> Tensor:
    if t.masks:
        t.mask = t.masks.get(kind.attention)
    return layer(t, x, kind)


LLAMA = Recipe(dense.rotary_embed, dense.llama_layer, dense.llama_head)
GPT2 = Recipe(dense.gpt2_embed, dense.gpt2_layer, dense.layer_norm_head, hands_mask=True)
BERT = Recipe(encoders.bert_embed, encoders.bert_layer, encoders.masked_head, encoders.masked_loss)
ROBERTA = replace(BERT, embed=encoders.roberta_embed, head=partial(encoders.masked_head, gelu=True))
ALBERT = replace(BERT, embed=encoders.albert_embed, layer=None, stages=encoders.albert_stages, checkpoints=False)
T5 = Recipe(t5.encoder_embed, None, t5.t5_head, blocks.plain_loss, stages=t5.t5_stages)
MIXTRAL = Recipe(mixtures.embed, mixtures.mixtral_layer, dense.llama_head)
DEEPSEEK = Recipe(latent.embed, mixtures.deepseek_layer, dense.llama_head)
OPT = Recipe(classic.opt_embed, classic.opt_layer, classic.head)
GEMMA = Recipe(gemma.embed, gemma.gemma_layer, gemma.head)
COHERE = Recipe(dense.rotary_embed, side_by_side.cohere_layer, side_by_side.cohere_head)
OLMO = Recipe(partial(dense.rotary_embed, dtype=FP32), gemma.olmo_layer, gemma.olmo_head)
LAYER_NORM = Recipe(dense.rotary_embed, dense.starcoder2_layer, dense.layer_norm_head)
GPTJ = Recipe(neox.gptj_embed, neox.gptj_layer, classic.head, sdpa=False)

RECIPES: Mapping[str, Recipe] = {
    "albert": ALBERT,
    "bert": BERT,
    "bloom": Recipe(classic.bloom_embed, classic.bloom_layer, classic.head, sdpa=False),
    "codegen": GPTJ,
    "cohere": COHERE,
    "cohere2": COHERE,
    "deepseek_v2": DEEPSEEK,
    "deepseek_v3": DEEPSEEK,
    "falcon": Recipe(falcon.falcon_embed, falcon.falcon_layer, classic.head),
    "gemma": GEMMA,
    "gemma2": replace(GEMMA, layer=gemma.gemma2_layer, sdpa=False),
    "gemma3_text": replace(GEMMA, layer=gemma.gemma3_layer),
    "glm": replace(LLAMA, embed=gemma.glm_embed, layer=gemma.glm_layer),
    "glm4": replace(LLAMA, embed=gemma.glm_embed, layer=gemma.glm4_layer),
    "glm4_moe": replace(MIXTRAL, layer=mixtures.glm_layer),
    "gpt2": GPT2,
    "gpt_neox": Recipe(neox.neox_embed, neox.neox_layer, classic.head),
    "gpt_oss": Recipe(mixtures.embed, mixtures.gpt_oss_layer, mixtures.gpt_oss_head, sdpa=False),
    "gptj": GPTJ,
    "granite": Recipe(partial(dense.rotary_embed, weighed=True), dense.granite_layer, dense.granite_head),
    "llama": LLAMA,
    "llama4_text": replace(MIXTRAL, layer=mixtures.llama4_layer),
    "mistral": LLAMA,
    "mixtral": MIXTRAL,
    "mpt": Recipe(classic.mpt_embed, classic.mpt_layer, classic.head, sdpa=False),
    "mt5": T5,
    "nemotron": replace(LAYER_NORM, layer=dense.nemotron_layer, head=dense.nemotron_head),
    "olmo": OLMO,
    "olmo2": replace(OLMO, layer=gemma.olmo2_layer, head=gemma.olmo2_head),
    "olmoe": replace(MIXTRAL, layer=mixtures.olmoe_layer),
    "opt": OPT,
    "phi": replace(LAYER_NORM, layer=side_by_side.phi_layer),
    "phi3": replace(LLAMA, layer=dense.phi3_layer),
    "phimoe": Recipe(mixtures.embed, mixtures.phimoe_layer, dense.layer_norm_head),
    "qwen2": LLAMA,
    "qwen2_moe": replace(MIXTRAL, layer=mixtures.qwen2_layer, head=mixtures.qwen2_head),
    "qwen3": replace(LLAMA, layer=dense.qwen3_layer),
    "qwen3_moe": replace(MIXTRAL, layer=mixtures.qwen3_layer),
    "roberta": ROBERTA,
    "smollm3": replace(LLAMA, layer=dense.smollm3_layer),
    "stablelm": replace(LAYER_NORM, layer=side_by_side.stablelm_layer),
    "starcoder2": replace(LAYER_NORM, embed=partial(dense.rotary_embed, held=True)),
    "t5": T5,
    "xlm-roberta": ROBERTA,
}

"""The ablations of JambaTalk: names and what `main.py --set` changes for each."""

import dataclasses

from config import LAYOUTS, ModelConfig

# Fields that are varied one at a time; the recipe's own value is the row "jambatalk".
VARIANTS: dict[str, tuple[str, ...]] = {
    **{f"order {name}": (f"model.layout={name}",) for name in LAYOUTS},
    "1 key-value head": ("model.n_kv_heads=1",),
    "8 key-value heads, no grouping": ("model.n_kv_heads=8",),
    "plain RoPE": ("model.rope_rank=0",),
    "RoPE correction of rank 1": ("model.rope_rank=1",),
    "1 expert": ("model.n_experts=1", "model.top_k=1"),
    "2 experts, top 1": ("model.top_k=1",),
    "4 experts, top 1": ("model.n_experts=4", "model.top_k=1"),
    "4 experts, top 2": ("model.n_experts=4",),
    "without lip reader": ("train.w_latent=0", "train.w_ctc=0"),
    "tied layers, as released": ("model.tie_layers=true",),
    "without layer mix": ("model.mix_layers=false",),
}
EQUAL = {"Mamba alone": "MMMMMM", "attention alone": "AAAAAA"}  # at the recipe's parameters


def variants(config: ModelConfig) -> dict[str, tuple[str, ...]]:
    """Name -> settings of every ablation of a network, those of equal parameters included.

    The order of the network itself is left out.
    """
    own = next((f"order {name}" for name, orders in LAYOUTS.items() if config.layout in orders), "")
    equal = {
        f"{name}, equal parameters": (f"model.layout={layout}", f"model.d_ff={d_ff}")
        for name, layout in EQUAL.items()
        for d_ff in [equal_width(config, layout)]
    }
    return {name: changes for name, changes in VARIANTS.items() if name != own} | equal


def equal_width(config: ModelConfig, layout: str) -> int:
    """The feed-forward width with which `layout` has as many parameters as the config's layers.

    Parameters are linear in the width, so that two counts determine it. At least 1.
    """
    target = count(config)
    narrow, wide = (count(dataclasses.replace(config, layout=layout, d_ff=d)) for d in (1, 1001))
    return max(1, 1 + round((target - narrow) * 1000 / (wide - narrow)))


def count(config: ModelConfig) -> int:
    """Number of parameters of the layers of a config."""
    from files.models import built_without_memory
    from jambatalk import JambaTalk

    model = built_without_memory(lambda: JambaTalk(config))
    return sum(p.numel() for p in model.layers.parameters())

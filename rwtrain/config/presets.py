"""Model shapes by name, for `model: {preset: 1b}`; every value can be replaced beside the name.

The names count the parameters of trunk, embedding and head with a vocabulary of 32,000, without gates and image encoder.
7b, 13b and 70b are the shapes of Llama 2 (Touvron et al. 2023, arXiv 2307.09288), so its weights fit; the smaller ones keep their
proportions, with grouped-query attention and tied embeddings up to 1b.
"""

from __future__ import annotations

from typing import Any


def _trunk(
    width: int, feed_forward: int, layers: int, heads: int, kv_heads: int, *, context: int, tied: bool, embedding: int, gates: list[int]
) -> dict[str, Any]:
    return {
        "hidden_size": width,
        "intermediate_size": feed_forward,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "max_position_embeddings": context,
        "tie_word_embeddings": tied,
        "embedding_dim": embedding,
        "gate_layers": gates,
    }


def _vision(width: int, layers: int, *, patch: int, image: int) -> dict[str, Any]:
    """A plain ViT (Dosovitskiy et al. 2021) in SigLIP's form, heads of 64 (32 in the smallest), feed-forward four times as wide."""
    return {
        "model_type": "siglip_vision_model",
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": max(1, width // 64) if width >= 192 else width // 32,
        "image_size": image,
        "patch_size": patch,
        "vision_use_head": False,
    }


PRESETS: dict[str, dict[str, Any]] = {
    "10m": _trunk(192, 512, 8, 6, 3, context=1024, tied=True, embedding=128, gates=[3]) | {"vision": _vision(128, 4, patch=8, image=32)},
    "50m": _trunk(512, 1408, 12, 8, 4, context=2048, tied=True, embedding=256, gates=[4, 8]) | {"vision": _vision(192, 12, patch=16, image=128)},
    "125m": _trunk(768, 2048, 16, 12, 4, context=2048, tied=True, embedding=512, gates=[5, 10]) | {"vision": _vision(192, 12, patch=16, image=224)},
    "350m": _trunk(1024, 2816, 28, 16, 8, context=2048, tied=True, embedding=512, gates=[9, 18]) | {"vision": _vision(384, 12, patch=16, image=224)},
    "1b": _trunk(2048, 5632, 20, 16, 8, context=4096, tied=True, embedding=768, gates=[6, 12]) | {"vision": _vision(384, 12, patch=16, image=224)},
    "3b": _trunk(3072, 8192, 28, 24, 8, context=4096, tied=False, embedding=1024, gates=[9, 18]) | {"vision": _vision(768, 12, patch=16, image=224)},
    "7b": _trunk(4096, 11008, 32, 32, 32, context=4096, tied=False, embedding=1024, gates=[10, 20]) | {"vision": _vision(768, 12, patch=16, image=224)},
    "13b": _trunk(5120, 13824, 40, 40, 40, context=4096, tied=False, embedding=1024, gates=[13, 26]) | {"vision": _vision(1024, 24, patch=14, image=224)},
    "70b": _trunk(8192, 28672, 80, 64, 8, context=4096, tied=False, embedding=1024, gates=[26, 53]) | {"vision": _vision(1024, 24, patch=14, image=224)},
}

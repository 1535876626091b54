"""The linker's default weights, learned from texts with gold mentions (`rwtrain.knowledge.calibration`)."""

from __future__ import annotations

from typing import Any

import numpy as np

# Weight of a candidate by how its name is written (row) and how the text writes it (column): in lower case, capitalised, in capitals, without
# case; for names of one word, of several.
SHAPE_WEIGHTS = np.array(
    [
        [[1.0, 0.4, 0.3, 1.0], [0.02, 1.0, 0.5, 1.0], [0.005, 0.05, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0]],
        [[1.0, 0.8, 0.6, 1.0], [0.3, 1.0, 0.8, 1.0], [0.1, 0.5, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0]],
    ]
)
SETTINGS: dict[str, Any] = {
    "left_context_bias": -1.0,
    "floor": -5.0,
    "mention": {
        "bias": 0.167, "shape": 0.487, "exact": 1.046, "label": 0.612, "popularity": -0.034, "several_words": 0.512, "length": 0.388, "lower": -1.229,
        "acronym": 0.395, "common": -2.7, "opens_sentence": -0.283, "beside_capital": -2.888, "digits": -1.626, "date": -2.474, "ambiguity": -0.486,
        "named": -0.266, "overlap": 0.063, "coherence": 1.099, "last_name": 1.601, "first_name": 1.21, "name_part": -0.589, "several_lower": -1.287,
        "after_article": -0.035, "share": 0.445, "kind": 1.0,
    },
    "candidate": {
        "prior": 0.651, "shape": 0.474, "exact": 0.151, "label": -0.461, "popularity": -0.008, "named": 1.042, "overlap": 1.408, "coherence": 1.686,
        "part": -0.75, "qualified": 0.0,
    },
    "kind": [],
}  # fmt: skip

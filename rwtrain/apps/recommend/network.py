"""The trunk as a reader of histories: one token for each item, its text embedding as input, its entity's vector through the gates.

Dimensions in names: B histories, S items of a history, N items of the catalogue, D hidden size, C embedding width.
"""

from __future__ import annotations

import torch
from torch import nn

from rwtrain.model.heads_refinedweb import RefinedWebForCausalLM

TEMPERATURE = 0.07
DROPOUT = 0.3
OWN_DROPOUT = 0.3
"""Share of the items whose own part is left out in a step, so that text and entity learn to place an item without it."""


class HistoryReader(nn.Module):
    """Items and histories as vectors whose cosine says what comes next.

    An item's vector is a projection of its text embedding plus a part of its own, which starts at zero: an item that nobody has chosen yet is
    placed by its text (and its entity) alone. Such items are no negatives in training, which would push their texts away.

    Args:
        language_model: its trunk is fine-tuned.
        text_NC: L2-normalised text embeddings of all items.
        vector_NE: TransE vectors of the items' entities, zeros for items without one; None reads no entities.
    """

    text_NC: torch.Tensor
    vector_NE: torch.Tensor
    linked_N: torch.Tensor
    chosen_N: torch.Tensor

    def __init__(self, language_model: RefinedWebForCausalLM, text_NC: torch.Tensor, vector_NE: torch.Tensor | None) -> None:
        super().__init__()
        items, width = text_NC.shape
        hidden = language_model.config.hidden_size
        self.trunk = language_model.model
        self.knowledge = vector_NE is not None
        self.register_buffer("text_NC", text_NC)
        self.register_buffer("vector_NE", vector_NE if vector_NE is not None else torch.zeros(items, 0))
        self.register_buffer("linked_N", self.vector_NE.abs().sum(1) > 0)
        self.register_buffer("chosen_N", torch.ones(items, dtype=torch.bool))
        self.input_projection = nn.Linear(width, hidden)
        self.input_own = nn.Embedding(items, hidden)
        self.key_projection = nn.Linear(width, width)
        self.key_own = nn.Embedding(items, width)
        if self.knowledge:
            self.key_entity = nn.Linear(self.vector_NE.shape[1], width, bias=False)
        self.query_projection = nn.Linear(hidden, width)
        self.dropout = nn.Dropout(DROPOUT)
        for table in (self.input_own, self.key_own):
            nn.init.zeros_(table.weight)

    def item_vectors(self) -> torch.Tensor:
        """L2-normalised vectors of all items, [N, C]."""
        own_NC = self.key_own.weight
        if self.training:
            own_NC = own_NC * (torch.rand(len(own_NC), 1, device=own_NC.device) >= OWN_DROPOUT)
        keys_NC = self.text_NC + self.key_projection(self.text_NC) + own_NC
        if self.knowledge:
            keys_NC = keys_NC + self.key_entity(self.vector_NE)
        return nn.functional.normalize(keys_NC, dim=-1)

    def forward(self, items_BS: torch.Tensor) -> torch.Tensor:
        """L2-normalised vector of what comes after each item, [B, S, C]; −1 fills the end of short histories."""
        known_BS = items_BS.clamp(min=0)
        embeds_BSD = self.dropout(self.input_projection(self.text_NC[known_BS]) + self.input_own(known_BS))
        entities = {}
        if self.knowledge:
            places_BS = torch.arange(items_BS.shape[1], device=items_BS.device).expand_as(items_BS)
            entities = {
                "entity_embeds": self.vector_NE[known_BS],
                "entity_positions": torch.where((items_BS >= 0) & self.linked_N[known_BS], places_BS, -1),
            }
        hidden_BSD = self.trunk(inputs_embeds=embeds_BSD, **entities).last_hidden_state
        return nn.functional.normalize(self.query_projection(self.dropout(hidden_BSD)), dim=-1)

    def loss(self, items_BS: torch.Tensor) -> torch.Tensor:
        """InfoNCE between what comes after each item and all items of the catalogue that anybody chose (`chosen_N`), mean over the histories' items."""
        queries_TC = self(items_BS[:, :-1])[items_BS[:, 1:] >= 0]
        logits_TN = (queries_TC @ self.item_vectors().T / TEMPERATURE).masked_fill(~self.chosen_N, -torch.inf)
        return nn.functional.cross_entropy(logits_TN, items_BS[:, 1:][items_BS[:, 1:] >= 0])

    def heads(self) -> dict[str, torch.Tensor]:
        """Everything but the trunk, for saving."""
        return {name: value for name, value in self.state_dict().items() if not name.startswith("trunk.")}

"""The exported heads, reading packed rows: many examples stand in one row, so that almost nothing of a batch is padding."""

from __future__ import annotations

from typing import Any

import torch

from rwtrain.model.tasks_refinedweb import RefinedWebForQuestionAnswering, RefinedWebForSequenceClassification


def slot_means(states_BSD: torch.Tensor, pool_ids: torch.Tensor, slots: int) -> torch.Tensor:
    """Mean of the states of each slot's tokens, [slots, D]; `pool_ids` [B, S] names each token's slot, −1 none."""
    flat = torch.where(pool_ids < 0, slots, pool_ids).flatten()
    counts = torch.zeros(slots + 1, dtype=torch.float32, device=flat.device).index_add_(0, flat, torch.ones_like(flat, dtype=torch.float32))
    sums = torch.zeros(slots + 1, states_BSD.shape[-1], dtype=torch.float32, device=flat.device).index_add(0, flat, states_BSD.flatten(0, 1).float())
    return (sums / counts.clamp(min=1)[:, None])[:slots].to(states_BSD.dtype)


class PackedSequenceClassification(RefinedWebForSequenceClassification):
    """The same parameters and, for each example, the same logits."""

    def forward(  # type: ignore[override]
        self, input_ids: torch.Tensor, position_ids: torch.Tensor, block_sequence_ids: torch.Tensor, pool_ids: torch.Tensor, pool_slots: int, **_: Any
    ) -> torch.Tensor:
        """Logits [pool_slots, labels] in float32."""
        states = self.model(input_ids=input_ids, position_ids=position_ids, block_sequence_ids=block_sequence_ids).last_hidden_state
        return self.score(slot_means(self.dropout(states), pool_ids, pool_slots)).float()


class PackedQuestionAnswering(RefinedWebForQuestionAnswering):
    """The same parameters and logits."""

    def forward(self, input_ids: torch.Tensor, position_ids: torch.Tensor, block_sequence_ids: torch.Tensor, **_: Any) -> torch.Tensor:  # type: ignore[override]
        """Logits of the answer's first and last token, [B, S, 2] in float32."""
        states = self.model(input_ids=input_ids, position_ids=position_ids, block_sequence_ids=block_sequence_ids).last_hidden_state
        return self.qa_outputs(self.dropout(states)).float()

"""Heads for understanding: classification or regression of texts, classification of tokens, extractive question answering.

The text is read as one block in both directions, as for embeddings. Copied as-is into exported folders: imports torch, transformers
and its sibling files only.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers.modeling_outputs import QuestionAnsweringModelOutput, SequenceClassifierOutput, TokenClassifierOutput

from .configuration_refinedweb import RefinedWebConfig
from .modeling_refinedweb import RefinedWebModel, RefinedWebPreTrainedModel


class _RefinedWebTask(RefinedWebPreTrainedModel):
    """The trunk, reading texts as blocks; subclasses add their linear head."""

    _keys_to_ignore_on_load_unexpected = [r"^lm_head\.", r"logit_(scale|bias)$", r"^entity_(query|key)\."]

    def __init__(self, config: RefinedWebConfig) -> None:
        super().__init__(config)
        self.model = RefinedWebModel(config)
        self.dropout = nn.Dropout(config.classifier_dropout)

    def encode(
        self, input_ids: torch.Tensor | None, attention_mask: torch.Tensor | None, inputs_embeds: torch.Tensor | None, **inputs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(states [B, S, D], attention mask [B, S]) of texts read in both directions; padding may stand on either side."""
        given = input_ids if input_ids is not None else inputs_embeds
        if given is None:
            raise ValueError("Give input_ids or inputs_embeds.")
        if attention_mask is None:
            attention_mask = torch.ones(given.shape[:2], dtype=torch.long, device=given.device)
        blocks = torch.where(attention_mask.bool(), 0, -1)
        position_ids = (attention_mask.cumsum(1) - 1).clamp(min=0)
        outputs = self.model(input_ids, attention_mask, position_ids, inputs_embeds=inputs_embeds, block_sequence_ids=blocks, **inputs)
        return self.dropout(outputs.last_hidden_state), attention_mask


class RefinedWebForSequenceClassification(_RefinedWebTask):
    """One label for a text, or for two texts separated by the end token: mean of its states, then a linear layer."""

    def __init__(self, config: RefinedWebConfig) -> None:
        super().__init__(config)
        self.score = nn.Linear(config.hidden_size, config.num_labels or 2)
        self.post_init()

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        entity_embeds: torch.Tensor | None = None,
        entity_positions: torch.Tensor | None = None,
        **_: Any,
    ) -> SequenceClassifierOutput:
        """Logits [B, num_labels]. With `labels` [B] also a loss: squared error for one number, cross-entropy for integers, else binary per label."""
        inputs = {"pixel_values": pixel_values, "entity_embeds": entity_embeds, "entity_positions": entity_positions}
        states_BSD, mask = self.encode(input_ids, attention_mask, inputs_embeds, **inputs)
        weight = mask[..., None].to(states_BSD.dtype)
        logits = self.score((states_BSD * weight).sum(1) / weight.sum(1).clamp(min=1))
        loss = None
        if labels is not None:
            if self.config.problem_type is None:
                if self.config.num_labels == 1:
                    self.config.problem_type = "regression"
                else:
                    self.config.problem_type = "multi_label_classification" if labels.is_floating_point() else "single_label_classification"
            loss = self.loss_function(labels=labels, pooled_logits=logits, config=self.config)
        return SequenceClassifierOutput(loss=loss, logits=logits)


class RefinedWebForTokenClassification(_RefinedWebTask):
    """One label for every token."""

    def __init__(self, config: RefinedWebConfig) -> None:
        super().__init__(config)
        self.score = nn.Linear(config.hidden_size, config.num_labels or 2)
        self.post_init()

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        entity_embeds: torch.Tensor | None = None,
        entity_positions: torch.Tensor | None = None,
        **_: Any,
    ) -> TokenClassifierOutput:
        """Logits [B, S, num_labels]; `labels` [B, S] use −100 for tokens that do not count."""
        inputs = {"pixel_values": pixel_values, "entity_embeds": entity_embeds, "entity_positions": entity_positions}
        logits = self.score(self.encode(input_ids, attention_mask, inputs_embeds, **inputs)[0])
        loss = None if labels is None else self.loss_function(logits, labels, self.config)
        return TokenClassifierOutput(loss=loss, logits=logits)


class RefinedWebForQuestionAnswering(_RefinedWebTask):
    """First and last token of the answer in a question with its context."""

    def __init__(self, config: RefinedWebConfig) -> None:
        super().__init__(config)
        self.qa_outputs = nn.Linear(config.hidden_size, 2)
        self.post_init()

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        start_positions: torch.Tensor | None = None,
        end_positions: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        entity_embeds: torch.Tensor | None = None,
        entity_positions: torch.Tensor | None = None,
        **_: Any,
    ) -> QuestionAnsweringModelOutput:
        """Logits of the answer's first and last token, [B, S] each; padding gets the lowest finite number."""
        inputs = {"pixel_values": pixel_values, "entity_embeds": entity_embeds, "entity_positions": entity_positions}
        states_BSD, mask = self.encode(input_ids, attention_mask, inputs_embeds, **inputs)
        logits = self.qa_outputs(states_BSD).masked_fill(mask[..., None] == 0, torch.finfo(states_BSD.dtype).min)
        start_logits, end_logits = (part.contiguous() for part in logits.unbind(-1))
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = self.loss_function(start_logits, end_logits, start_positions, end_positions)
        return QuestionAnsweringModelOutput(loss=loss, start_logits=start_logits, end_logits=end_logits)


__all__ = ["RefinedWebForQuestionAnswering", "RefinedWebForSequenceClassification", "RefinedWebForTokenClassification"]

"""Writing on: tokens drawn one after the other, as a stream, with sampling controls, stop texts and the memorisation check."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers.generation.logits_process import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from rwtrain.apps.memorisation import SPAN_TOKENS, MemorisationCheck, MemorisationIndex
from rwtrain.apps.model import AppModel, cache_of
from rwtrain.data.tokenizer import BOS_ID, EOS_ID, IMAGE_ID, MASK_ID, PAD_ID, UNK_ID
from rwtrain.errors import ConfigError

NEVER_WRITTEN = (UNK_ID, BOS_ID, PAD_ID, MASK_ID, IMAGE_ID)
BROKEN = "\ufffd"  # what the bytes of half a character decode to


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn."""

    max_new_tokens: int = 60
    """Most tokens written."""
    temperature: float = 0.8
    """Divides the logits; 0 takes the most probable token."""
    top_k: int = 40
    """Draw among so many most probable tokens; 0 among all."""
    top_p: float = 0.95
    """Draw among the most probable tokens that together have this probability."""
    repetition_penalty: float = 1.2
    """Divides the logits of tokens that stand in the text already (multiplies negative ones); 1 changes nothing."""
    stop: tuple[str, ...] = ()
    """Writing ends before any of these texts."""
    seed: int = 0
    """Seed of the draws: the same seed writes the same text."""

    def __post_init__(self) -> None:
        wrong = []
        if not 1 <= self.max_new_tokens <= 4096:
            wrong.append(f"max_new_tokens={self.max_new_tokens}: give 1 to 4096")
        if not 0 <= self.temperature <= 10:
            wrong.append(f"temperature={self.temperature}: give 0 to 10")
        if self.top_k < 0:
            wrong.append(f"top_k={self.top_k}: give 0 or more")
        if not 0 < self.top_p <= 1:
            wrong.append(f"top_p={self.top_p}: give more than 0, at most 1")
        if not 0.5 <= self.repetition_penalty <= 5:
            wrong.append(f"repetition_penalty={self.repetition_penalty}: give 0.5 to 5")
        if not -(2**63) <= self.seed < 2**63:
            wrong.append(f"seed={self.seed}: give a number of 64 bits")
        if wrong:
            raise ConfigError("; ".join(wrong) + ".")

    def processors(self) -> LogitsProcessorList:
        """transformers' processors for these settings, in its order."""
        chain = LogitsProcessorList()
        if self.repetition_penalty != 1:
            chain.append(RepetitionPenaltyLogitsProcessor(self.repetition_penalty))
        if self.temperature > 0:
            chain.append(TemperatureLogitsWarper(self.temperature))
            if self.top_k:
                chain.append(TopKLogitsWarper(self.top_k))
            if self.top_p < 1:
                chain.append(TopPLogitsWarper(self.top_p))
        return chain


@dataclass(frozen=True)
class Piece:
    """A piece of written text.

    Attributes:
        text: what is new.
        warning: why the text up to here should not be used as it is; "" if nothing speaks against it.
        finished: on the last piece, "end" (the model ended the text), "length" or "stop"; else "".
    """

    text: str
    warning: str = ""
    finished: str = ""


def write_tokens(app: AppModel, prompt: str, sampling: Sampling, *, link: bool = True) -> Iterator[int]:
    """Token ids that continue `prompt`, without end mark; the entities of the prompt enter through the gates.

    Where prompt and text outgrow the row length of training, the older half is forgotten.
    """
    reading = app.read(prompt, link=link, keep="end", max_tokens=max(2, app.max_tokens - min(sampling.max_new_tokens, app.max_tokens // 2)))
    state = _State(torch.from_numpy(reading.ids)[None].to(app.device), app.entity_inputs([app.causal_places(reading)]))
    generator, chain = torch.Generator(app.device).manual_seed(sampling.seed), sampling.processors()
    for _ in range(sampling.max_new_tokens):
        token = _next_token(app, state, chain, generator if sampling.temperature > 0 else None)
        if token == EOS_ID:
            return
        yield token


@dataclass
class _State:
    """Writing between two tokens: all ids [1, S], what the cache has not seen of them, and the entities that enter with it."""

    ids: torch.Tensor
    entities: dict[str, torch.Tensor]
    cache: Any = None


@torch.inference_mode()  # for each token by itself: another thread may ask for the next one
def _next_token(app: AppModel, state: _State, chain: LogitsProcessorList, generator: torch.Generator | None) -> int:
    """Draw a token, or take the most probable one without a generator; `state` moves on by it."""
    if state.cache is not None and state.cache.get_seq_length() + 1 > app.max_tokens:
        kept = state.ids[:, -(app.max_tokens // 2) :]
        state.ids, state.cache = torch.cat((torch.full_like(kept[:, :1], BOS_ID), kept), 1), None
    fresh = state.ids if state.cache is None else state.ids[:, -1:]
    output = app.model(input_ids=fresh, past_key_values=state.cache, use_cache=True, logits_to_keep=1, **state.entities)
    logits = output.logits[:, -1].float()
    logits[:, list(NEVER_WRITTEN)] = -torch.inf
    logits = chain(state.ids, logits)  # type: ignore[arg-type]  # transformers means int64 by LongTensor
    drawn = logits.argmax(-1, keepdim=True) if generator is None else torch.multinomial(torch.softmax(logits, -1), 1, generator=generator)
    state.ids, state.entities, state.cache = torch.cat((state.ids, drawn), 1), {}, cache_of(output)
    return int(drawn)


def write(app: AppModel, prompt: str, sampling: Sampling, *, memorised: MemorisationIndex | None = None, link: bool = True) -> Iterator[Piece]:
    """Continue `prompt`, piece by piece, as it is written.

    Args:
        memorised: spans of the training data; a piece that completes one carries a warning.
    """
    check = MemorisationCheck(memorised) if memorised is not None else None
    written: list[int] = []
    shown, finished = "", "end"
    for token in write_tokens(app, prompt, sampling, link=link):
        written.append(token)
        warning = f"the last {SPAN_TOKENS} tokens stand word for word in the training data" if check is not None and check.add(token) else ""
        text = app.tokenizer.decode(written)
        if len(written) == sampling.max_new_tokens:
            finished = "length"
        stop = min((place for place in map(text.find, sampling.stop) if place >= 0), default=-1)
        if stop >= 0:
            text, finished = text[:stop], "stop"
            if len(text) > len(shown) or warning:
                yield Piece(text[len(shown) :], warning)
            break
        ready = text.rstrip(BROKEN)
        ready = ready[: len(ready) - _held_back(ready, sampling.stop)]
        if len(ready) > len(shown) or warning:
            yield Piece(ready[len(shown) :], warning)
            shown = max(shown, ready, key=len)
    else:
        text = app.tokenizer.decode(written)
        if len(text) > len(shown):
            yield Piece(text[len(shown) :])
    yield Piece("", finished=finished)


def _held_back(text: str, stops: tuple[str, ...]) -> int:
    """How many last characters may be the beginning of a stop text."""
    return max((size for stop in stops for size in range(1, len(stop)) if text.endswith(stop[:size])), default=0)


def perplexity(app: AppModel, text: str) -> float:
    """exp of the mean −ln p of the text's tokens, read causally without entities; texts are cut at the row length of training."""
    found = app.token_log_probabilities([app.read(text, link=False).ids])[0]
    return float(np.exp(-found.mean())) if len(found) else float("nan")

"""transformers' BERT of a given size, its weights drawn at random, fine-tuned on a task's file; prints its figures as one JSON object.

The texts, the pieces of the tokenizer and the number of epochs are those of the model it stands beside. Masked pretraining is left out: it
shows what the task's own data teach.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import numpy as np
import torch
from transformers import BertConfig, BertForSequenceClassification, get_linear_schedule_with_warmup

from rwtrain.data.tokenizer import BOS_ID, EOS_ID, PAD_ID, Tokenizer
from rwtrain.evaluate.model import pad_rows
from rwtrain.finetune.files import Example, read_examples
from rwtrain.finetune.metrics import score
from rwtrain.finetune.tasks import TASKS

LONGEST = 128


def rows_of(examples: list[Example], tokenizer: Tokenizer) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Token ids and segment numbers: begin mark, text, end mark, and for pairs the other text and an end mark."""
    rows, segments = [], []
    for example in examples:
        first = np.concatenate(([BOS_ID], tokenizer.encode(example.first)[: LONGEST // 2 - 2], [EOS_ID]))
        second = np.zeros(0, np.int64) if example.second is None else np.concatenate((tokenizer.encode(example.second)[: LONGEST // 2 - 1], [EOS_ID]))
        rows.append(np.concatenate((first, second)))
        segments.append(np.repeat([0, 1], [len(first), len(second)]))
    return rows, segments


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", choices=("sst2", "stsb"))
    parser.add_argument("train", type=Path)
    parser.add_argument("valid", type=Path)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, default=2)
    options = parser.parse_args()
    torch.manual_seed(0)
    task, tokenizer = TASKS[options.task], Tokenizer(options.tokenizer)
    train, valid = (read_examples(path, task, labels=task.labels) for path in (options.train, options.valid))
    shape = BertConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=options.width,
        num_hidden_layers=options.layers,
        num_attention_heads=4,
        intermediate_size=4 * options.width,
        max_position_embeddings=LONGEST + 8,
        pad_token_id=PAD_ID,
        num_labels=len(task.labels) or 1,
    )
    model = BertForSequenceClassification(shape)
    steps = math.ceil(len(train) * options.epochs / options.batch)
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.learning_rate, weight_decay=0.01)
    schedule = get_linear_schedule_with_warmup(optimizer, steps // 16, steps)
    rows, segments = rows_of(train, tokenizer)
    labels = torch.tensor([example.label for example in train])
    draw, order = np.random.default_rng(0), np.zeros(0, np.int64)
    for _ in range(steps):
        if len(order) < options.batch:
            order = np.concatenate((order, draw.permutation(len(rows))))
        chosen, order = order[: options.batch], order[options.batch :]
        input_ids, mask = pad_rows([rows[place] for place in chosen])
        kinds, _ = pad_rows([segments[place] for place in chosen], fill=0)
        gold = labels[chosen].long() if task.labels else labels[chosen].float()
        loss = model(input_ids=input_ids, attention_mask=mask, token_type_ids=kinds, labels=gold).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    model.eval()
    rows, segments = rows_of(valid, tokenizer)
    found: list[float] = []
    with torch.inference_mode():
        for start in range(0, len(rows), 64):
            input_ids, mask = pad_rows(rows[start : start + 64])
            kinds, _ = pad_rows(segments[start : start + 64], fill=0)
            logits = model(input_ids=input_ids, attention_mask=mask, token_type_ids=kinds).logits
            found += (logits.argmax(1) if task.labels else logits[:, 0]).tolist()
    gold_values = [float(example.label or 0) for example in valid]
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(json.dumps({**score(task.metrics, gold_values, found), "parameters": parameters, "steps": steps}))


if __name__ == "__main__":
    main()

"""WikiText-2: perplexity of our trunk against transformers' Llama of the same shape, on the same batches.

    python -m benchmarks.evidence.language --data DIR [--quick | --large] [--seeds N]

Both get the same tokenizer (BPE trained on the training text), the same rows in the same order, the same positions and segments, optimiser,
schedule, steps and, seed by seed, the same initial weights (the parameter names are the same), as initial weights alone move the perplexity by
some percent in so short a training. Perplexity per token of that tokenizer, and per word and line end of the original text (from the ratio of
tokens to words of the whole split), over the first rows of the validation and the test text.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.evidence.harness import Options, Record, curve_panel, paired_difference, parse_options, plot, print_json, print_table, run_experiment
from benchmarks.evidence.texts import make_tokenizer, mean_loss, rows_of, wikitext_articles, word_count, write_shards
from benchmarks.evidence.training import Losses, Training, device, fit, to_device
from rwtrain.config.schema import TrainConfig

CURVE_ROWS = 32  # of the validation text, for the learning curve
EVALUATIONS = 6


def configuration(options: Options, seed: int) -> TrainConfig:
    """Shape, batch and schedule, the same for both models."""
    work = options.out / "language-data"
    width, layers, heads = options.choose((128, 4, 4), quick=(64, 2, 2), large=(512, 8, 8))
    rows, seq_len = options.choose((8, 256), quick=(4, 128), large=(64, 512))
    steps = options.steps(120, quick=20, large=1000)
    return TrainConfig.model_validate(
        {
            "run": str(work),
            "steps": steps,
            "seed": seed,
            "data": {"text": str(work / "train"), "tokenizer": str(work / "tokenizer.model")},
            "model": {
                "hidden_size": width,
                "intermediate_size": width * 11 // 4,
                "num_hidden_layers": layers,
                "num_attention_heads": heads,
                "embedding_dim": 16,
                "max_position_embeddings": seq_len,
            },
            "batch": {"seq_len": seq_len, "text_rows": rows},
            "optimizer": {"learning_rate": options.choose(3e-3, quick=3e-3, large=1e-3), "warmup_steps": steps // 10, "beta2": 0.98},
        }
    )


def llama_like(training: Training) -> LlamaForCausalLM:
    """transformers' Llama of our trunk's shape and with its initial weights."""
    shape = training.model_config
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    names += ("max_position_embeddings", "tie_word_embeddings", "rope_parameters", "bos_token_id", "eos_token_id", "pad_token_id")
    model = LlamaForCausalLM(LlamaConfig(**{name: getattr(shape, name) for name in names}, rms_norm_eps=shape.norm_eps)).to(device())
    ours = training.build_model().state_dict()
    model.load_state_dict({name: ours[name] for name in model.state_dict()})
    return model


def llama_losses(model: LlamaForCausalLM, training: Training) -> Losses:
    """Next-token loss of Llama on the loader's batches; restarting positions keep it from looking into other segments, as ours."""

    def of_step(step: int) -> Iterator[tuple[torch.Tensor, dict[str, float]]]:
        (batch,) = map(to_device, training.loader.step_batches(step))
        loss = model(input_ids=batch.input_ids, position_ids=batch.position_ids, labels=batch.labels, use_cache=False).loss
        yield loss, {"language_modelling": float(loss.detach())}

    return of_step


def main() -> None:
    options = parse_options(__doc__ or "")
    work = options.out / "language-data"
    articles = {split: wikitext_articles(options.data, split) for split in ("train", "valid", "test")}
    tokenizer = make_tokenizer(work / "tokenizer.model", lambda: articles["train"], vocab_size=4096)
    shards = {split: write_shards(work / split, texts, tokenizer) for split, texts in articles.items()}
    seq_len = configuration(options, 0).batch.seq_len
    held_out = {split: rows_of(shards[split], seq_len)[: options.choose(256, quick=64, large=None)] for split in ("valid", "test")}
    tokens_per_word = {split: shards[split].manifest["tokens"] / word_count(articles[split]) for split in held_out}

    def train(settings: Mapping[str, Any], seed: int) -> Record:
        training = Training.open(configuration(options, seed))
        if settings["model"] == "ours":
            model: Any = training.build_model()
            losses = training.losses(model)
        else:
            model = llama_like(training)
            losses = llama_losses(model, training)
        steps = training.config.steps
        curve = fit(
            model,
            losses,
            training.config.optimizer,
            steps=steps,
            seed=seed,
            evaluate=lambda model: {"valid_loss": mean_loss(model, held_out["valid"][:CURVE_ROWS])},
            every=max(1, steps // EVALUATIONS),
        )
        figures = {}
        for split, rows in held_out.items():
            loss = mean_loss(model.eval(), rows)
            figures |= {f"{split}_perplexity": math.exp(loss), f"{split}_word_perplexity": math.exp(loss * tokens_per_word[split])}
        names = dict(model.named_parameters())
        figures["parameters"] = sum(parameter.numel() for name, parameter in names.items() if "logit_scale" not in name and "embedding_projection" not in name)
        return {"figures": figures, "curve": curve}

    results = run_experiment("language", options, {"ours": {"model": "ours"}, "llama": {"model": "llama"}}, train)
    columns = {"valid_perplexity": "valid", "test_perplexity": "test", "test_word_perplexity": "test, per word", "parameters": "parameters"}
    print_table(results, columns)
    difference = paired_difference(results, "llama", "ours", "test_perplexity")
    panels = [
        curve_panel(results, "language_modelling", title="training loss", y="nats per token"),
        curve_panel(results, "valid_loss", title="validation loss", y="nats per token"),
    ]
    print(f"plot: {plot('language', options, panels)}")
    print_json("language", options, results, llama_minus_ours_test_perplexity=difference)


if __name__ == "__main__":
    main()

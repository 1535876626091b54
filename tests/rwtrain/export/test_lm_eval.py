"""EleutherAI's lm-evaluation-harness reads an exported folder and gives the log-likelihoods of the training class, offline, on a task file of one's own."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from rwtrain.evaluate.model import open_model
from rwtrain.export.export import export_run
from tests.rwtrain.export.random_run import make_run

ROOT = Path(__file__).parents[3]
PYTHON = ROOT / ".peers" / "lm_eval" / "bin" / "python"
TASK = """task: two_ways
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: answer
metric_list: [{{metric: acc}}]
"""
QUESTIONS = [
    {"question": "Anarchism is a political", "choices": ["philosophy", "shoe"], "answer": 0},
    {"question": "The capital of", "choices": ["and", "France"], "answer": 1},
]


@pytest.mark.skipif(not PYTHON.exists(), reason="make it with: python -c \"from benchmarks.peer_env import peer_python; peer_python('lm_eval')\"")
def test_harness_gives_the_trainer_s_likelihoods(train_settings: dict, tmp_path: Path) -> None:
    make_run(tmp_path / "run", train_settings, initializer_range=0.1)
    export_run(tmp_path / "run", tmp_path / "export", parity=False)
    (tmp_path / "questions.jsonl").write_text("\n".join(map(json.dumps, QUESTIONS)) + "\n")
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "two_ways.yaml").write_text(TASK.format(data=tmp_path / "questions.jsonl"))
    command = [str(PYTHON), "-m", "lm_eval", "--model", "hf", "--model_args", f"pretrained={tmp_path / 'export'},trust_remote_code=True,dtype=float32"]
    command += ["--tasks", "two_ways", "--include_path", str(tmp_path / "tasks"), "--device", "cpu", "--batch_size", "2", "--log_samples"]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [*command, "--output_path", str(tmp_path / "out")], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    samples = [json.loads(line) for path in (tmp_path / "out").rglob("samples_*.jsonl") for line in path.read_text().splitlines()]
    assert len(samples) == len(QUESTIONS)
    model = open_model(tmp_path / "run", device="cpu")
    for sample in samples:
        question = sample["doc"]
        for choice, response in zip(question["choices"], sample["filtered_resps"], strict=True):
            whole = model.tokenizer.encode(f"{question['question']} {choice}")
            prompt = len(model.tokenizer.encode(question["question"]))
            ids = torch.from_numpy(np.concatenate(([1], whole)).astype(np.int64))[None]
            with torch.no_grad():
                log_shares = model.model(input_ids=ids).logits.log_softmax(-1)[0]
            expected = sum(float(log_shares[place, ids[0, place + 1]]) for place in range(prompt, len(whole)))
            assert float(response[0]) == pytest.approx(expected, abs=1e-3)

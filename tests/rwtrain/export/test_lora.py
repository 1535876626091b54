"""The example of docs/finetuning.md runs, learns, and its adapter gives the same numbers when it is loaded again."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from rwtrain.export.export import export_run
from tests.rwtrain.export.random_run import make_run

PAGE = Path(__file__).parents[3] / "docs" / "finetuning.md"


def test_adapter_learns_is_saved_and_merges(train_settings: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    peft = pytest.importorskip("peft")
    make_run(tmp_path / "run", train_settings, initializer_range=0.05)
    export_run(tmp_path / "run", tmp_path / "export", parity=False)
    monkeypatch.chdir(tmp_path)
    code = re.search(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)[1]
    names: dict = {}
    exec(code, names)
    inputs, fresh = names["inputs"], AutoModelForCausalLM.from_pretrained("export", trust_remote_code=True)
    with torch.no_grad():
        before = float(fresh(**inputs, labels=inputs["input_ids"]).loss)
        again = peft.PeftModel.from_pretrained(fresh, "adapter").eval()
        after = float(again(**inputs, labels=inputs["input_ids"]).loss)
        merged = AutoModelForCausalLM.from_pretrained("merged", trust_remote_code=True).eval()
        assert float((merged(**inputs).logits - again(**inputs).logits).abs().max()) < 1e-4
    assert after < before - 0.2
    assert sum(path.stat().st_size for path in Path("adapter").glob("*.safetensors")) < 40_000

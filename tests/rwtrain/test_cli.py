"""What a user sees when something is wrong: one sentence that names the file and the remedy, status 2, no traceback."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from rwtrain import cli


def fails_with(arguments: list[str], capsys: pytest.CaptureFixture[str], *expected: str) -> None:
    assert cli.main(arguments) == 2
    printed = capsys.readouterr().err
    assert printed.count("error:") == 1
    assert "Traceback" not in printed
    for words in expected:
        assert words in printed


@pytest.fixture
def config(tmp_path: Path, train_settings: dict) -> Path:
    """A training configuration whose text shards are a copy that a test may damage."""
    shutil.copytree(train_settings["data"]["text"], tmp_path / "text")
    path = tmp_path / "train.yaml"
    path.write_text(yaml.safe_dump({**train_settings, "run": str(tmp_path / "run"), "data": {**train_settings["data"], "text": str(tmp_path / "text")}}))
    return path


def test_a_corrupt_shard_is_named_before_training_starts(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shard = tmp_path / "text" / "shard-00000.arrow"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    fails_with(["train", str(config), "--processes", "2"], capsys, str(shard), "checksum", "rwtrain prep")
    assert not (tmp_path / "run").exists()


def test_missing_data_and_a_missing_store_are_named(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fails_with(["train", str(config), "--set", f"data.text={tmp_path / 'absent'}"], capsys, str(tmp_path / "absent"), "no finished dataset")
    fails_with(["train", str(config), "--set", f"data.entity_store={tmp_path / 'absent'}"], capsys, str(tmp_path / "absent"))
    fails_with(["train", str(config), "--set", f"data.tokenizer={tmp_path / 'absent'}"], capsys, "no tokenizer here", "rwtrain tokenizer train")


def test_an_unfit_batch_and_model_are_explained(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fails_with(["train", str(config), "--processes", "3"], capsys, "batch.text_rows=4", "multiples of 3")
    fails_with(["train", str(config), "--set", "model.num_key_value_heads=3"], capsys, "num_key_value_heads=3")
    fails_with(["train", str(config), "--set", "model.vision.model_type=nonsense"], capsys, "model.vision")


def test_dry_run_prints_the_resolved_configuration_and_starts_nothing(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", str(config), "--dry-run", "--processes", "2"]) == 0
    printed = capsys.readouterr().out
    assert yaml.safe_load(printed.split("# DeepSpeed")[0])["batch"]["seq_len"] == 64
    assert "'train_micro_batch_size_per_gpu': 6" in printed
    assert not (tmp_path / "run").exists()


def test_debug_shows_the_traceback(config: Path) -> None:
    from rwtrain.errors import ConfigError

    with pytest.raises(ConfigError):
        cli.main(["train", str(config), "--set", "nonsense=1", "--debug"])

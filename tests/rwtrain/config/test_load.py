"""Settings: every mistake at once, the nearest known key, no traceback on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rwtrain import cli
from rwtrain.config.deepspeed import resolve
from rwtrain.config.load import dump_yaml, load_config
from rwtrain.config.schema import TrainConfig
from rwtrain.errors import ConfigError

MINIMAL = "run: r\nsteps: 5\ndata: {text: t, tokenizer: k}\n"


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "train.yaml"
    path.write_text(text)
    return path


def test_defaults_then_file_then_command_line(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL + "batch: {seq_len: 100}\n")
    config = load_config(TrainConfig, path, ["batch.text_rows=3", "engine.overlays=[zero1, fp32]"])
    assert (config.batch.seq_len, config.batch.text_rows, config.batch.pair_rows) == (100, 3, 0)
    assert config.engine.overlays == ["zero1", "fp32"]


def test_all_mistakes_are_listed_with_the_nearest_key(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL + "optimiser: {}\nbatch: {seqlen: 5, text_rows: -1}\n")
    with pytest.raises(ConfigError) as raised:
        load_config(TrainConfig, path)
    message = str(raised.value)
    assert str(path) in message
    assert "unknown key `optimiser`; did you mean `optimizer`?" in message
    assert "unknown key `batch.seqlen`; did you mean `batch.seq_len`?" in message
    assert "batch.text_rows: Input should be greater than or equal to 0" in message


@settings(max_examples=50, deadline=None)
@example(text="a\x85b\u2028c\u2029\ud800\r\n \ufeff")
@example(text="~")
@given(text=st.text(st.characters(), min_size=1))  # lone surrogates, too
def test_a_written_configuration_is_read_back_as_it_was(text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    config = TrainConfig.model_validate({"run": text, "steps": 5, "data": {"text": text, "tokenizer": "k"}, "engine": {"overlays": [text]}})
    path = tmp_path_factory.getbasetemp() / "written.yaml"
    path.write_text(dump_yaml(config), encoding="utf-8")
    read = load_config(TrainConfig, path)
    assert (read.run, read.data.text[0].path, read.engine.overlays) == (text, text, [text])


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: [1", "not valid YAML"), ("- 1", "not a mapping"), (MINIMAL + "batch: {image_rows: 4}", "needs data.images and model.vision")],
)
def test_unusable_files_are_explained(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(TrainConfig, write(tmp_path, text))


def test_the_command_line_prints_one_sentence_and_exits_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, MINIMAL + "stepz: 3\n")
    assert cli.main(["train", str(path)]) == 2
    printed = capsys.readouterr().err
    assert "unknown key `stepz`; did you mean `steps`?" in printed
    assert "Traceback" not in printed
    assert cli.main(["train", str(tmp_path / "absent.yaml")]) == 2
    assert "absent.yaml: cannot be read" in capsys.readouterr().err


def test_the_batch_triangle_is_derived_once() -> None:
    values = {"run": "r", "steps": 1, "data": {"text": "t", "tokenizer": "k"}, "batch": {"text_rows": 12, "pair_rows": 6, "accumulation": 3}}
    resolved = resolve(TrainConfig.model_validate(values), world_size=2)
    assert resolved["train_micro_batch_size_per_gpu"] == (12 + 6) // 6
    assert resolved["train_batch_size"] == resolved["train_micro_batch_size_per_gpu"] * resolved["gradient_accumulation_steps"] * 2
    assert resolved["zero_optimization"]["stage"] == 3
    assert resolved["bf16"]["enabled"] is True


def test_an_unknown_overlay_names_the_known_ones() -> None:
    values = {"run": "r", "steps": 1, "data": {"text": "t", "tokenizer": "k"}, "engine": {"overlays": ["zero4"]}}
    with pytest.raises(ConfigError, match=r"no overlay 'zero4'.*zero3"):
        resolve(TrainConfig.model_validate(values), world_size=1)


@pytest.mark.parametrize("verb", list(cli.VERBS))
def test_every_verb_has_help_with_an_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main([verb, "--help"])
    assert stopped.value.code == 0
    assert f"rwtrain {verb} " in capsys.readouterr().out.split("examples:")[1] or verb == "demo"

"""Checkpoint folders: what commits, what is kept, what `rwtrain checkpoint` says and does."""

from __future__ import annotations

from pathlib import Path

import pytest

from rwtrain.cli import main
from rwtrain.config.schema import CheckpointConfig
from rwtrain.errors import ConfigError, DataError
from rwtrain.files import content_hash
from rwtrain.train import checkpoint
from rwtrain.train.checkpoint import Entry, entries, superfluous
from rwtrain.train.mirror import Mirror

LOSSES = {3: 4.0, 6: 2.0, 9: 3.0, 12: 2.5, 15: 2.75}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Five committed checkpoints of one small file each."""
    folder = tmp_path / "run" / "checkpoints"
    for step, loss in LOSSES.items():
        path = checkpoint.temporary_folder(folder, step) / "state" / "weights.pt"
        path.parent.mkdir(parents=True)
        path.write_bytes(bytes(range(step)))
        files = {"state/weights.pt": {"bytes": step, "hash": content_hash(path)}}
        checkpoint.commit(folder, step, {"world_size": 2, "zero_stage": 3, "precision": "bf16", "loss": loss, "files": files})
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("rules", "kept"),
    [
        ({"keep": 2}, [12, 15]),
        ({"keep": 1, "keep_every_steps": 6}, [6, 12, 15]),
        ({"keep": 1, "keep_best": 2}, [6, 12, 15]),
        ({"keep": 1, "keep_best": 3}, [6, 12, 15]),
        ({"keep": 1, "keep_best": 4, "keep_every_steps": 9}, [6, 9, 12, 15]),
        ({"keep": 9}, [3, 6, 9, 12, 15]),
    ],
)
def test_rules_of_retention(rules: dict, kept: list[int]) -> None:
    found = [Entry(Path(checkpoint.checkpoint_name(step)), step, loss) for step, loss in LOSSES.items()]
    removed = superfluous(found, CheckpointConfig(**rules), current=None)
    assert [entry.step for entry in found if entry not in removed] == kept


def test_the_checkpoint_that_latest_names_is_never_removed(run: Path) -> None:
    checkpoint.set_latest(run / "checkpoints", run / "checkpoints" / checkpoint.checkpoint_name(3))
    checkpoint.prune(run, CheckpointConfig(keep=1))
    assert [entry.step for entry in entries(run)] == [3, 15]
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["latest", "step-00000003", "step-00000015"]


def test_list(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["checkpoint", "list", str(run)]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == ["step", "loss", "ranks", "ZeRO", "precision", "GB", "written"]
    assert [row.split()[:5] for row in rows] == [[str(step), f"{loss:.4f}", "2", "3", "bf16"] for step, loss in LOSSES.items()]
    assert [row.endswith("kept by no rule") for row in rows] == [True, True, False, False, False]  # three by default
    assert rows[-1].endswith("latest")


def test_verify_names_every_damaged_checkpoint(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["checkpoint", "verify", str(run)]) == 0
    flipped, torn, missing = (run / "checkpoints" / checkpoint.checkpoint_name(step) / "state" / "weights.pt" for step in (3, 6, 9))
    flipped.write_bytes(b"\0\1\3")
    torn.write_bytes(b"\0")
    missing.unlink()
    (run / "checkpoints" / checkpoint.checkpoint_name(12) / checkpoint.MANIFEST).write_text("{")
    capsys.readouterr()
    assert main(["checkpoint", "verify", str(run)]) == 2
    rows = capsys.readouterr().out.splitlines()
    for row, text in zip(
        rows, ("checksum differs", "1 bytes, the manifest says 6", "missing", "not a checkpoint manifest", "whole, 1 files, 15 bytes"), strict=True
    ):
        assert text in row
    assert main(["checkpoint", "verify", str(run / "checkpoints" / checkpoint.checkpoint_name(15))]) == 0


def test_prune_follows_the_run_s_rules_and_flags(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "config.yaml").write_text("checkpoint: {keep: 2}\n")
    assert main(["checkpoint", "prune", str(run), "--dry-run"]) == 0
    assert capsys.readouterr().out == "would remove 3 of 5: step-00000003, step-00000006, step-00000009\n"
    assert len(entries(run)) == 5
    assert main(["checkpoint", "prune", str(run), "--keep-best", "1"]) == 0
    assert [entry.step for entry in entries(run)] == [6, 12, 15]


def test_a_folder_without_checkpoints_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["checkpoint", "list", str(tmp_path)]) == 2
    assert "no finished checkpoint here" in capsys.readouterr().err


def test_latest_that_names_nothing_is_an_error(run: Path) -> None:
    (run / "checkpoints" / "latest").write_text("step-00000099\n")
    with pytest.raises(DataError, match="names 'step-00000099', which is no finished checkpoint"):
        checkpoint.find_latest(run)


def test_leftovers_of_kills_are_removed(run: Path) -> None:
    (run / "checkpoints" / ".step-00000018.tmp" / "state").mkdir(parents=True)
    (run / "checkpoints" / ".step-00000003.removed.tmp").mkdir()
    checkpoint.remove_unfinished(run / "checkpoints")
    assert not list((run / "checkpoints").glob(".*"))


def test_mirror_has_the_same_checkpoints(run: Path, tmp_path: Path) -> None:
    mirror = Mirror(f"file://{tmp_path}/elsewhere/checkpoints")
    for entry in entries(run):
        mirror.add(entry.path)
    for entry in checkpoint.prune(run, CheckpointConfig(keep=2)):
        mirror.remove(entry.path.name)
    assert checkpoint.resolve(tmp_path / "elsewhere").name == checkpoint.checkpoint_name(15)
    assert [checkpoint.verify(entry.path)["step"] for entry in entries(tmp_path / "elsewhere")] == [12, 15]
    assert not (tmp_path / "elsewhere" / "checkpoints" / checkpoint.checkpoint_name(3)).exists()


def test_a_mirror_of_an_unknown_kind_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"checkpoint\.mirror=nowhere://x"):
        Mirror("nowhere://x")

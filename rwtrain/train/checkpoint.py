"""Checkpoint folders that are whole or absent: temporary folder → write → flush → hashes in a manifest → rename → `latest`."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rwtrain.config.schema import CheckpointConfig
from rwtrain.errors import DataError
from rwtrain.files import content_hash, fsync_path, fsync_tree, write_json, write_text

MANIFEST = "manifest.json"
LATEST = "latest"
TAG = "state"  # the folder inside a checkpoint that DeepSpeed writes
_NAME = re.compile(r"step-\d{8}")


def checkpoint_name(step: int) -> str:
    return f"step-{step:08d}"


def temporary_folder(folder: Path, step: int) -> Path:
    """Where checkpoint `step` grows until it is whole."""
    return folder / f".{checkpoint_name(step)}.tmp"


def remove_unfinished(folder: Path) -> None:
    """Delete what interrupted saves and deletions left behind."""
    for path in folder.glob(".step-*.tmp"):
        shutil.rmtree(path)


def commit(folder: Path, step: int, description: dict[str, Any]) -> Path:
    """Turn the temporary folder of `step`, whose files are flushed, into a checkpoint and move `latest` to it."""
    temporary, final = temporary_folder(folder, step), folder / checkpoint_name(step)
    write_json(temporary / MANIFEST, {"step": step, **description})
    fsync_tree(temporary)
    _remove(final)  # a damaged one, or one that was finished by a process killed before it moved `latest`
    os.replace(temporary, final)
    fsync_path(folder)
    set_latest(folder, final)
    return final


def set_latest(folder: Path, checkpoint: Path) -> None:
    write_text(folder / LATEST, checkpoint.name + "\n")


def _remove(checkpoint: Path) -> None:
    """Delete a checkpoint so that a kill in between leaves nothing that looks whole."""
    if checkpoint.exists():
        doomed = checkpoint.with_name(f".{checkpoint.name}.removed.tmp")
        shutil.rmtree(doomed, ignore_errors=True)
        os.replace(checkpoint, doomed)
        shutil.rmtree(doomed)


@dataclass(frozen=True)
class Entry:
    """A finished checkpoint in a run folder.

    Attributes:
        loss: mean training loss over the steps since the checkpoint before, None if unknown.
    """

    path: Path
    step: int
    loss: float | None = None


def entries(run: Path) -> list[Entry]:
    """The finished checkpoints of a run, oldest first; their content is not verified."""
    folder, found = run / "checkpoints", []
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if _NAME.fullmatch(path.name) and (path / MANIFEST).is_file():
            try:
                loss = read_manifest(path).get("loss")
            except DataError:  # `verify` names it
                loss = None
            found.append(Entry(path, int(path.name.removeprefix("step-")), loss))
    return found


def superfluous(found: Sequence[Entry], config: CheckpointConfig, *, current: str | None) -> list[Entry]:
    """The checkpoints that no rule of `config` keeps: not among the newest, of no kept multiple of steps, not among the best, not `current`."""
    kept = {entry.step for entry in found[-config.keep :]}
    if config.keep_every_steps:
        kept |= {entry.step for entry in found if entry.step % config.keep_every_steps == 0}
    rated = sorted((entry.loss, entry.step) for entry in found if entry.loss is not None)
    kept |= {step for _, step in rated[: config.keep_best]}
    return [entry for entry in found if entry.step not in kept and entry.path.name != current]


def prune(run: Path, config: CheckpointConfig, *, dry_run: bool = False) -> list[Entry]:
    """Remove the superfluous checkpoints, never the one `latest` names; return them."""
    removed = superfluous(entries(run), config, current=read_latest(run / "checkpoints"))
    for entry in removed if not dry_run else []:
        _remove(entry.path)
    return removed


def read_latest(folder: Path) -> str | None:
    """The name in `latest`, None without that file."""
    path = folder / LATEST
    return path.read_text(encoding="utf-8").strip() if path.is_file() else None


def find_latest(run: Path) -> Path | None:
    """The newest finished checkpoint of a run folder, or None if there is none yet.

    Raises:
        DataError: `latest` names a checkpoint that is not there.
    """
    folder = run / "checkpoints"
    name = read_latest(folder)
    if name is None:
        return None
    if not _NAME.fullmatch(name) or not (folder / name / MANIFEST).is_file():
        raise DataError(
            folder / LATEST,
            f"names {name!r}, which is no finished checkpoint",
            "Use --fallback to continue from the newest whole checkpoint, or delete the file to start anew",
        )
    return folder / name


def resolve(path: str | Path) -> Path:
    """The checkpoint that a path means: a checkpoint folder itself, or a run folder's latest; verified.

    Raises:
        DataError: there is none, or it is damaged.
    """
    path = Path(path)
    checkpoint = path if (path / MANIFEST).is_file() and _NAME.fullmatch(path.name) else find_latest(path)
    if checkpoint is None:
        raise DataError(path, "no finished checkpoint here", "Train with `rwtrain train` until the first checkpoint, or correct the path")
    verify(checkpoint)
    return checkpoint


def read_manifest(checkpoint: Path) -> dict[str, Any]:
    """The manifest of a checkpoint: step, world_size, zero_stage, precision, loss, files."""
    path = checkpoint / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        return {"step": int(manifest["step"]), "world_size": int(manifest["world_size"]), **manifest, "files": dict(manifest["files"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(path, f"not a checkpoint manifest ({error!r})", "Use another checkpoint") from error


def verify(checkpoint: Path, *, share: tuple[int, int] = (0, 1)) -> dict[str, Any]:
    """Compare every file's size and hash with the manifest and return the manifest.

    Args:
        share: (k, n) to look at the k-th of n shares of the files only, so that ranks can divide the reading.

    Raises:
        DataError: a file is missing, truncated or changed.
    """
    manifest = read_manifest(checkpoint)
    remedy = "Use --fallback to continue from the newest whole checkpoint, or restore the file"
    for name in sorted(manifest["files"])[share[0] :: share[1]]:
        entry, path = manifest["files"][name], checkpoint / name
        if not path.is_file():
            raise DataError(path, "the file is missing from the checkpoint", remedy)
        if path.stat().st_size != entry["bytes"]:
            raise DataError(path, f"{path.stat().st_size} bytes, the manifest says {entry['bytes']}", remedy)
        if content_hash(path) != entry["hash"]:
            raise DataError(path, "its checksum differs from the manifest: the file is corrupt", remedy)
    return manifest

"""Checkpoints that are whole or absent: temporary folder → write → flush → hashed manifest → rename → `latest`."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

from rwtrain.errors import DataError
from rwtrain.files import content_hash, fsync_path, fsync_tree, write_json, write_text
from rwtrain.train.distributed import Ranks

MANIFEST = "manifest.json"
LATEST = "latest"
TAG = "state"  # the folder inside a checkpoint that DeepSpeed writes
_NAME = re.compile(r"step-\d{8}")


def checkpoint_name(step: int) -> str:
    return f"step-{step:08d}"


def save(engine: Any, ranks: Ranks, folder: Path, *, step: int, keep: int) -> Path:
    """Write checkpoint `step` below `folder`, move `latest` to it and remove all but the newest `keep`. Collective.

    A kill at any instant leaves `latest` pointing at a whole checkpoint: DeepSpeed writes into a temporary folder, and
    `latest` moves after that was flushed, hashed and renamed.
    """
    final = folder / checkpoint_name(step)
    temporary = folder / f".{final.name}.tmp"
    if ranks.is_main:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    ranks.barrier()
    engine.save_checkpoint(str(temporary), tag=TAG, client_state={"step": step}, save_latest=False)
    ranks.barrier()
    if ranks.is_main:
        fsync_tree(temporary)
        files = sorted(path for path in temporary.rglob("*") if path.is_file())
        entries = {str(path.relative_to(temporary)): {"bytes": path.stat().st_size, "hash": content_hash(path)} for path in files}
        write_json(temporary / MANIFEST, {"step": step, "world_size": ranks.world_size, "zero_stage": engine.zero_optimization_stage(), "files": entries})
        shutil.rmtree(final, ignore_errors=True)
        os.replace(temporary, final)
        fsync_path(folder)
        write_text(folder / LATEST, final.name + "\n")
        prune(folder, keep=keep)
    ranks.barrier()
    return final


def prune(folder: Path, *, keep: int) -> list[Path]:
    """Remove all but the newest `keep` checkpoints, never the one `latest` names; return what was removed."""
    current = _read_latest(folder)
    found = sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name))
    removed = [path for path in found[: max(0, len(found) - keep)] if path.name != current]
    for path in removed:
        shutil.rmtree(path)
    return removed


def _read_latest(folder: Path) -> str | None:
    path = folder / LATEST
    return path.read_text(encoding="utf-8").strip() if path.is_file() else None


def find_latest(run: Path) -> Path | None:
    """The newest finished checkpoint of a run folder, or None if there is none yet.

    Raises:
        DataError: `latest` names a checkpoint that is not there.
    """
    folder = run / "checkpoints"
    name = _read_latest(folder)
    if name is None:
        return None
    if not _NAME.fullmatch(name) or not (folder / name / MANIFEST).is_file():
        raise DataError(
            folder / LATEST, f"names {name!r}, which is no finished checkpoint", "Write the name of a checkpoint folder into it, or delete it to start anew"
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
    """The manifest of a checkpoint: step, world_size, zero_stage, files."""
    path = checkpoint / MANIFEST
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(path, f"not a checkpoint manifest ({error})", "Use another checkpoint") from error


def verify(checkpoint: Path) -> dict[str, Any]:
    """Compare every file's size and hash with the manifest and return the manifest.

    Raises:
        DataError: a file is missing, truncated or changed.
    """
    manifest = read_manifest(checkpoint)
    remedy = "Write the name of an older checkpoint into `latest`, or restore the file"
    for name, entry in manifest["files"].items():
        path = checkpoint / name
        if not path.is_file():
            raise DataError(path, "the file is missing from the checkpoint", remedy)
        if path.stat().st_size != entry["bytes"]:
            raise DataError(path, f"{path.stat().st_size} bytes, the manifest says {entry['bytes']}", remedy)
        if content_hash(path) != entry["hash"]:
            raise DataError(path, "its checksum differs from the manifest: the file is corrupt", remedy)
    return manifest


def load(engine: Any, ranks: Ranks, run: Path) -> int:
    """Restore the run's latest checkpoint, chosen and verified by rank 0; return its step, 0 without a checkpoint. Collective.

    Raises:
        DataError: the checkpoint is damaged, or was made by another number of ranks.
    """
    problem: DataError | None = None
    checkpoint: Path | None = None
    if ranks.is_main:
        try:
            checkpoint = find_latest(run)
            if checkpoint is not None:
                made_by = verify(checkpoint)["world_size"]
                if made_by != ranks.world_size:
                    raise DataError(checkpoint, f"written by {made_by} ranks, this job has {ranks.world_size}", f"Start the job with {made_by} ranks")
        except DataError as error:
            problem = error
    checkpoint, problem = ranks.broadcast((checkpoint, problem))  # type: ignore[misc]
    if problem is not None:
        raise problem
    if checkpoint is None:
        return 0
    loaded, client_state = engine.load_checkpoint(str(checkpoint), tag=TAG)
    if loaded is None:
        raise DataError(checkpoint, "DeepSpeed found no state in it", "Use another checkpoint")
    return int(client_state["step"])

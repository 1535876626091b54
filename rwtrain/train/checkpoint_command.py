"""`rwtrain checkpoint list|verify|prune|convert RUN`."""

from __future__ import annotations

import argparse
import contextlib
import os
import time
from collections.abc import Sequence
from pathlib import Path

from rwtrain.config.load import read_yaml
from rwtrain.config.schema import CheckpointConfig
from rwtrain.errors import DataError
from rwtrain.files import atomic_folder
from rwtrain.train.checkpoint import TAG, Entry, entries, prune, read_latest, read_manifest, resolve, superfluous, verify

EPILOG = """examples:
  rwtrain checkpoint list runs/demo/train
  rwtrain checkpoint verify runs/demo/train            # reads every byte of every checkpoint
  rwtrain checkpoint prune runs/demo/train --keep 1 --dry-run
  rwtrain checkpoint convert runs/demo/train universal # DeepSpeed's universal format, for other programs

Training with other processes, another ZeRO stage or another precision needs no conversion: `rwtrain train` redistributes a checkpoint while it loads it."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `rwtrain checkpoint`."""
    parser.epilog = EPILOG
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    for name, text in (
        ("list", "show the checkpoints of a run"),
        ("verify", "compare every checkpoint with its manifest; exit status 2 if one is damaged"),
        ("prune", "remove the checkpoints that no rule keeps; by default the rules of RUN/config.yaml"),
        ("convert", "write a checkpoint in DeepSpeed's universal format"),
    ):
        action = actions.add_parser(
            name, help=text, description=text[0].upper() + text[1:] + ".", epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        action.add_argument("path", metavar="RUN", help="folder of a run" + (", or one of its checkpoints" if name in ("verify", "convert") else ""))
        if name == "prune":
            action.add_argument("--keep", type=int, help="newest checkpoints kept")
            action.add_argument("--keep-every-steps", type=int, help="keep those at multiples of so many steps")
            action.add_argument("--keep-best", type=int, help="keep so many with the lowest training loss")
            action.add_argument("--dry-run", action="store_true", help="only say what would be removed")
        if name == "convert":
            action.add_argument("out", metavar="OUT", help="folder to write")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Do one action; return 0, or 2 if `verify` found damage."""
    path = Path(arguments.path)
    if arguments.action == "convert":
        return _convert(resolve(path), Path(arguments.out))
    single = (path / "manifest.json").is_file() and path.parent.name == "checkpoints"
    found = [entry for entry in entries(path.parent.parent if single else path) if not single or entry.path.name == path.name]
    if not found:
        raise DataError(path, "no finished checkpoint here", "Give the folder of a run of `rwtrain train`")
    if arguments.action == "verify":
        return _verify(found)
    if arguments.action == "list":
        return _list(path, found)
    flags = {name: getattr(arguments, name) for name in ("keep", "keep_every_steps", "keep_best")}
    config = _rules(path).model_copy(update={name: value for name, value in flags.items() if value is not None})
    config = CheckpointConfig.model_validate(config.model_dump())
    removed = prune(path, config, dry_run=arguments.dry_run)
    print(f"{'would remove' if arguments.dry_run else 'removed'} {len(removed)} of {len(found)}: {', '.join(entry.path.name for entry in removed) or 'none'}")
    return 0


def _rules(run: Path) -> CheckpointConfig:
    path = run / "config.yaml"
    return CheckpointConfig.model_validate(read_yaml(path).get("checkpoint", {})) if path.is_file() else CheckpointConfig()


def _list(run: Path, found: Sequence[Entry]) -> int:
    latest, config = read_latest(run / "checkpoints"), _rules(run)
    going = {entry.step for entry in superfluous(found, config, current=latest)}
    print(f"{'step':>10} {'loss':>9} {'ranks':>6} {'ZeRO':>5} {'precision':>10} {'GB':>9} {'written':>17}")
    for entry in found:
        try:
            manifest = read_manifest(entry.path)
        except DataError as error:
            print(f"{entry.step:>10} damaged: {error.problem}")
            continue
        size = sum(file["bytes"] for file in manifest["files"].values()) / 1e9
        written = time.strftime("%Y-%m-%d %H:%M", time.localtime((entry.path / "manifest.json").stat().st_mtime))
        loss = "-" if entry.loss is None else f"{entry.loss:.4f}"
        notes = ["latest"] * (entry.path.name == latest) + ["kept by no rule"] * (entry.step in going)
        shape = f"{manifest['world_size']:>6} {manifest.get('zero_stage', '-'):>5} {manifest.get('precision', '-'):>10}"
        row = f"{entry.step:>10} {loss:>9} {shape} {size:>9.3f} {written:>17}"
        print(f"{row}  {', '.join(notes)}".rstrip())
    return 0


def _verify(found: Sequence[Entry]) -> int:
    damaged = 0
    for entry in found:
        try:
            files = verify(entry.path)["files"]
            print(f"{entry.path.name}  whole, {len(files)} files, {sum(file['bytes'] for file in files.values()):,} bytes")
        except DataError as error:
            damaged += 1
            print(f"{entry.path.name}  damaged: {error.file}: {error.problem}")
    return 2 if damaged else 0


def _convert(checkpoint: Path, out: Path) -> int:
    if not list((checkpoint / TAG).glob("*_optim_states.pt")):
        raise DataError(checkpoint, "DeepSpeed cannot convert what was written without ZeRO", "Continue the run for one checkpoint with a zero overlay first")
    from deepspeed.checkpoint import ds_to_universal

    with atomic_folder(out) as temporary, open(os.devnull, "w") as silence, contextlib.redirect_stdout(silence), contextlib.redirect_stderr(silence):
        options = {"input_folder": str(checkpoint / TAG), "output_folder": str(temporary / "universal"), "num_extract_workers": 1, "num_merge_workers": 1}
        ds_to_universal.main(argparse.Namespace(**options, keep_temp_folder=False, strict=True, inject_missing_state=False))
    print(f'{out / "universal"}: load it with {{"checkpoint": {{"load_universal": true}}}}')
    return 0

"""Environments of the programs that benchmarks compare with: made once from pinned requirement files, under `.peers/`."""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

from rwtrain.errors import RWTrainError
from rwtrain.files import content_hash, write_text

ROOT = Path(__file__).parents[1]
PEERS = ROOT / "benchmarks" / "peers"


def peer_python(name: str) -> Path:
    """The interpreter of a peer's environment; installs `benchmarks/peers/NAME.txt` if it has changed.

    Raises:
        RWTrainError: the installation failed.
    """
    folder, requirements = ROOT / ".peers" / name, PEERS / f"{name}.txt"
    python, stamp = folder / "bin" / "python", folder / "requirements.hash"
    if stamp.is_file() and stamp.read_text() == content_hash(requirements):
        return python
    print(f"installing {name} into {folder}", file=sys.stderr, flush=True)
    venv.create(folder, with_pip=True)
    done = subprocess.run([python, "-m", "pip", "install", "--quiet", "-r", requirements], capture_output=True, text=True)
    if done.returncode:
        raise RWTrainError(f"The environment of {name} cannot be installed: {done.stderr.strip().splitlines()[-1:]}. Check the network.")
    write_text(stamp, content_hash(requirements))
    return python


def run_peer(name: str, script: str, *arguments: str | Path) -> dict[str, Any]:
    """Run `benchmarks/peers/SCRIPT` in a peer's environment; return the JSON object that it prints last.

    Raises:
        RWTrainError: the script failed.
    """
    done = subprocess.run([peer_python(name), PEERS / script, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        raise RWTrainError(f"{script} failed: {done.stderr.strip()[-800:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])

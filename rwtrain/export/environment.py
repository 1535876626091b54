"""A virtual environment like a user's of an exported model: torch, transformers and pillow, nothing of rwtrain."""

from __future__ import annotations

import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

from rwtrain.errors import RWTrainError

PACKAGES = (("torch==2.13.0",), ("transformers==5.23.0", "pillow"))  # torch first: a later package would choose another build of it


def make_clean_environment(path: Path, *, constraints: Path | None = None, extra: Sequence[str] = ()) -> Path:
    """Create the environment, or reuse it if it is whole, and return its interpreter.

    Args:
        path: folder of the environment.
        constraints: a pip constraints file.
        extra: more packages to install, such as `sentence-transformers`.

    Raises:
        RWTrainError: pip cannot install a package.
    """
    python = path / "bin" / "python"
    done = path / ".complete"
    if done.is_file() and python.exists():
        return python
    venv.create(path, with_pip=True, clear=path.is_dir())
    pins = ["--constraint", str(constraints)] if constraints is not None and constraints.is_file() else []
    for packages in (*PACKAGES, tuple(extra)) if extra else PACKAGES:
        command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *pins, *packages]
        finished = subprocess.run(command, capture_output=True, text=True, check=False)
        if finished.returncode:
            tail = " ".join(finished.stderr.strip().splitlines()[-3:])
            raise RWTrainError(f"{' '.join(packages)} cannot be installed into {path} ({tail}). Check the package index, then run the command again.")
    done.touch()
    return python


if __name__ == "__main__":
    root = Path(__file__).resolve().parents[2]
    print(make_clean_environment(Path(sys.argv[1]), constraints=root / "constraints.txt", extra=sys.argv[2:]))

"""A virtual environment like a user's of an exported model: torch, transformers and pillow, nothing of rwtrain."""

from __future__ import annotations

import argparse
import subprocess
import venv
from collections.abc import Sequence
from pathlib import Path

from rwtrain.errors import RWTrainError

TORCH, TRANSFORMERS = "torch==2.13.0", "5.23.0"
OLDEST, NEWEST = "5.17.0", "5.24.0"  # releases of transformers that exports are tested with


def make_clean_environment(path: Path, *, transformers: str = TRANSFORMERS, constraints: Path | None = None, extra: Sequence[str] = ()) -> Path:
    """Create the environment, or reuse it if it is whole, and return its interpreter.

    Args:
        path: folder of the environment.
        transformers: release to install.
        constraints: a pip constraints file, which names the default release and is not used for others.
        extra: more packages to install, such as `sentence-transformers`.

    Raises:
        RWTrainError: pip cannot install a package.
    """
    python = path / "bin" / "python"
    done = path / ".complete"
    if done.is_file() and python.exists():
        return python
    venv.create(path, with_pip=True, clear=path.is_dir())
    pins = ["--constraint", str(constraints)] if constraints is not None and constraints.is_file() and transformers == TRANSFORMERS else []
    wanted = [(TORCH,), (TORCH, f"transformers=={transformers}", "pillow", *extra)]  # torch first: a later package would choose another build of it
    for packages in wanted:
        command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *pins, *packages]
        finished = subprocess.run(command, capture_output=True, text=True, check=False)
        if finished.returncode:
            tail = " ".join(finished.stderr.strip().splitlines()[-3:])
            raise RWTrainError(f"{' '.join(packages)} cannot be installed into {path} ({tail}). Check the package index, then run the command again.")
    done.touch()
    return python


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path, help="folder of the environment")
    parser.add_argument("extra", nargs="*", help="more packages, such as sentence-transformers")
    parser.add_argument("--transformers", default=TRANSFORMERS, metavar="VERSION", help=f"release of transformers (default: {TRANSFORMERS})")
    options = parser.parse_intermixed_args()
    constraints = Path(__file__).resolve().parents[2] / "constraints.txt"
    print(make_clean_environment(options.path, transformers=options.transformers, constraints=constraints, extra=options.extra))


if __name__ == "__main__":
    main()

"""What a job ran with: its code and the versions of everything installed, copied beside the run."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import rwtrain
from launch.job import CODE, JobFolder
from rwtrain.errors import ConfigError
from rwtrain.files import write_text

PACKAGES = ("rwtrain", "data_prep", "launch", "ds_configs")
IGNORED = shutil.ignore_patterns("__pycache__", "*.pyc", ".git", "*.nbi", "*.nbc", ".venv", "runs")
LARGEST_BYTES = 256 << 20
LIST_VERSIONS = 'from importlib.metadata import distributions as d\nfor x in sorted({f"{x.name}=={x.version}" for x in d()}, key=str.lower): print(x)'


def code_root() -> Path:
    """Folder that holds this installation's packages."""
    return Path(rwtrain.__file__).absolute().parent.parent


def write_snapshot(folder: JobFolder, *, python: str, further: list[str], code: bool) -> None:
    """Copy the code to `code/` and write `environment.txt`.

    Args:
        python: whose packages are listed, if it can be run here.
        further: more folders to copy, each under its own name.
        code: copy the packages of this project, too.

    Raises:
        ConfigError: a folder is missing or too large to be code.
    """
    if code or further:
        (folder.path / CODE).mkdir()
    if code:
        for name in PACKAGES:
            shutil.copytree(code_root() / name, folder.path / CODE / name, ignore=IGNORED)
    for path in map(Path, further):
        if not path.is_dir():
            raise ConfigError(f"code: {path} is no folder. Name folders of Python code, relative to the job's folder.")
        size = sum(os.path.getsize(os.path.join(root, name)) for root, _, names in os.walk(path) for name in names if os.path.isfile(os.path.join(root, name)))
        if size > LARGEST_BYTES:
            raise ConfigError(f"code: {path} holds {size / 1e6:,.0f} MB, more than code should. Name the folder of the code alone.")
        shutil.copytree(path, folder.path / CODE / path.name, ignore=IGNORED, symlinks=True)
    write_text(folder.path / "environment.txt", describe_environment(python))


def describe_environment(python: str) -> str:
    """Name==version of all installed packages of an interpreter, after a line about the interpreter itself."""
    if Path(python) == Path(sys.executable):
        versions = sorted({f"{found.name}=={found.version}" for found in importlib.metadata.distributions()}, key=str.lower)
        return "\n".join([f"# Python {platform.python_version()} on {platform.platform()}: {python}", *versions, ""])
    try:
        done = subprocess.run([python, "-c", LIST_VERSIONS], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        done = None
    if done is None or done.returncode != 0:
        return f"# {python} cannot be run where the job was submitted: its packages are not known\n"
    return f"# {python}\n{done.stdout}"

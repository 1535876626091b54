"""The code that a job needs, as one archive for a ConfigMap: what its command imports, directly or not, and the files beside it."""

from __future__ import annotations

import ast
import gzip
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

from launch.job import Job
from launch.snapshot import IGNORED, PACKAGES, code_root
from rwtrain.verbs import VERBS

ENTRY = ("launch.pod", "rwtrain.cli", "ds_configs")
WHOLE = "rwtrain.model"  # exports copy its files by their names
LONGEST_NAME = 100
PRUNED = "rwtrain.verbs"  # the table names the modules of all verbs, of which a job uses one


def pack_code(job: Job) -> bytes:
    """The snapshot as a compressed archive; the same bytes for the same code."""
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as stream, tarfile.open(fileobj=stream, mode="w") as archive:
        for name, path in files_of(job).items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = path.stat().st_size, 0o644
            with open(path, "rb") as source:
                archive.addfile(entry, source)
    return packed.getvalue()


def files_of(job: Job) -> dict[str, Path]:
    """Name in the archive -> file, sorted: the job's own folders of code, and as much of this project as the job uses."""
    own = [pair for path in job.spec.code for pair in _walk(Path(job.folder) / path)]
    if not job.spec.snapshot:
        return dict(sorted(own))
    ours = dict(pair for name in PACKAGES for pair in _walk(code_root() / name))
    verb = "train" if job.spec.train is not None else job.spec.command[1] if job.spec.command[0] == "rwtrain" and len(job.spec.command) > 1 else ""
    if verb in VERBS:
        ours = _needed(ours, [*ENTRY, VERBS[verb][0]], [path for _, path in own if path.suffix == ".py"])
    return dict(sorted([*ours.items(), *own]))


def _walk(root: Path) -> Iterator[tuple[str, Path]]:
    for path in root.rglob("*"):
        parts = path.relative_to(root.parent).parts
        if path.is_file() and not any(IGNORED(str(root), [part]) for part in parts):
            yield "/".join(parts), path


def _needed(files: dict[str, Path], roots: list[str], scripts: list[Path]) -> dict[str, Path]:
    """Of `files`, the modules that `roots` and `scripts` import or name, at whatever depth, and the other files of their packages."""
    modules = {name.removesuffix(".py").replace("/", ".").removesuffix(".__init__"): name for name in files if name.endswith(".py")}
    waiting = [*roots, *(name for name in modules if name.startswith(f"{WHOLE}."))]
    for script in scripts:
        waiting += _mentions(script, "")
    found: set[str] = set()
    while waiting:
        name = waiting.pop()
        while name and name not in modules:  # a name in a module
            name = name.rpartition(".")[0]
        while name and name not in found:
            found.add(name)
            path = files[modules[name]]
            if name != PRUNED:
                waiting += _mentions(path, name if path.name == "__init__.py" else name.rpartition(".")[0])
            name = name.rpartition(".")[0]  # importing a module runs its packages
    packages = {name.rpartition("/")[0] for name in files if name.endswith("/__init__.py")}
    chosen = {modules[name] for name in found}
    chosen |= {name for name in files if not name.endswith(".py") and f"{_package(name, packages)}/__init__.py" in chosen}
    return {name: files[name] for name in chosen}


def _package(name: str, packages: set[str]) -> str:
    folder = name.rpartition("/")[0]
    while folder and folder not in packages:
        folder = folder.rpartition("/")[0]
    return folder


def _mentions(path: Path, package: str) -> Iterator[str]:
    """Dotted names that a file imports, in functions too, or has as strings (`python -m NAME`)."""
    try:
        tree = ast.parse(path.read_bytes())
    except SyntaxError:
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            base = ".".join([*parts[: len(parts) - node.level + 1], *filter(None, [node.module])]) if node.level else node.module or ""
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            name = node.value.partition(":")[0]
            if "." in name and len(name) < LONGEST_NAME and all(part.isidentifier() for part in name.split(".")):
                yield name

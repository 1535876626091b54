"""Imports point one way, and the base installation imports without the extras."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# package -> prefixes of ours that it must not import (besides itself)
FORBIDDEN = {
    "rwtrain/model": ("rwtrain.", "data_prep", "launch"),
    "rwtrain/config": ("rwtrain.data", "rwtrain.train", "rwtrain.export", "rwtrain.evaluate", "rwtrain.knowledge", "data_prep", "launch"),
    "rwtrain/data": ("rwtrain.train", "rwtrain.export", "rwtrain.evaluate", "rwtrain.objectives", "data_prep", "launch"),
    "rwtrain/knowledge": ("rwtrain.train", "rwtrain.export", "rwtrain.evaluate", "rwtrain.objectives", "data_prep"),
    "rwtrain/objectives": ("rwtrain.train", "rwtrain.export", "rwtrain.evaluate", "data_prep", "launch"),
    "rwtrain/train": ("rwtrain.export", "rwtrain.evaluate", "data_prep"),
    "data_prep": ("rwtrain.train", "rwtrain.export", "rwtrain.evaluate", "rwtrain.objectives"),
    "launch": ("rwtrain.train", "rwtrain.data", "rwtrain.model", "rwtrain.export", "data_prep"),
}


def imported(path: Path) -> list[str]:
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.append(node.module)
    return names


@pytest.mark.parametrize("package", FORBIDDEN)
def test_imports_point_one_way(package: str) -> None:
    for path in (ROOT / package).rglob("*.py"):
        wrong = [name for name in imported(path) if name.startswith(FORBIDDEN[package])]
        assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"


def test_nothing_imports_the_command_line_but_the_demo() -> None:
    for package in ("rwtrain", "data_prep", "launch"):
        for path in (ROOT / package).rglob("*.py"):
            if path.name not in ("demo.py", "cli.py"):
                assert not any(name == "rwtrain.cli" for name in imported(path)), path


def test_base_modules_import_without_the_extras() -> None:
    blocked = ("deepspeed", "datasets", "fastwarc", "resiliparse", "numba", "matplotlib", "tensorboard", "ray", "gradio")
    modules = ["rwtrain.cli", "rwtrain.config.schema", "rwtrain.config.deepspeed", "rwtrain.data.shards", "rwtrain.data.loader", "rwtrain.objectives.task"]
    modules += ["rwtrain.model.heads_refinedweb", "rwtrain.model.processing_refinedweb", "rwtrain.train.loop", "rwtrain.train.checkpoint", "launch.local"]
    modules += ["rwtrain.export.command", "rwtrain.evaluate.command", "rwtrain.demo"]
    code = f"import sys\nfor name in {blocked!r}: sys.modules[name] = None\nimport importlib\n"
    # `rwtrain train` reads the settings in a process that only starts the ranks: it need not wait for the model's code.
    code += "import rwtrain.train.setup, rwtrain.train.initial_weights\nassert 'transformers.modeling_utils' not in sys.modules\n"
    code += f"for name in {modules!r}: importlib.import_module(name)\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-1500:]

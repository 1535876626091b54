"""The commands of docs/tutorials are run as they stand, page after page, in one folder."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import forked_commands
from tests.rwtrain.export.hub import Hub

ROOT = Path(__file__).parents[1]
PAGES = ("preprocess", "cluster", "export", "objective", "adapt", "answer", "write", "look", "recommend")
BLOCK = re.compile(r"^```(bash|yaml|python)(?: (\S+))?\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Looks like the root of the repository to the commands; what they write stays here."""
    folder = tmp_path_factory.mktemp("tutorials")
    for name in ("examples", "docs"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "runs" / "tutorial").mkdir(parents=True)
    return folder


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    server = Hub()
    yield server
    server.close()


@pytest.fixture(scope="module")
def environment(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Variables of the commands, with a `rwtrain` on the PATH that starts at once."""
    commands = tmp_path_factory.mktemp("commands")
    variables = {
        **os.environ,
        "PATH": os.pathsep.join([str(commands), str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "HF_ENDPOINT": hub.address,
        "HF_TOKEN": "hf_secret",
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
    }
    server = subprocess.Popen([sys.executable, "-m", "tests.forked_commands", str(commands)], env=variables, cwd=ROOT)
    try:
        while not (commands / forked_commands.COMMAND).exists():
            assert server.poll() is None, "the server of commands does not start"
            time.sleep(0.05)
        yield variables
    finally:
        server.kill()
        server.wait()


def run_page(name: str, folder: Path, environment: dict[str, str]) -> str:
    """Write the files of a page and run its commands; return what they printed."""
    printed = ""
    for kind, path, text in BLOCK.findall((ROOT / "docs" / "tutorials" / f"{name}.md").read_text(encoding="utf-8")):
        if kind != "bash":
            assert path, f"{name}: a block of {kind} names no file"
            (folder / path).write_text(text, encoding="utf-8")
            continue
        done = subprocess.run(["bash", "-euo", "pipefail", "-c", text], cwd=folder, env=environment, capture_output=True, text=True, timeout=600, check=False)
        assert done.returncode == 0, f"{name}: {text}\n{done.stdout[-1500:]}\n{done.stderr[-2500:]}"
        printed += done.stdout
    return printed


def figures(printed: str, name: str) -> list[float]:
    return [float(value) for value in re.findall(rf"^{name} +([0-9.e+]+)$", printed, re.MULTILINE)]


@pytest.mark.timeout(900)
def test_pages_in_their_order(folder: Path, hub: Hub, environment: dict[str, str]) -> None:
    printed = {name: run_page(name, folder, environment) for name in PAGES}
    assert len(figures(printed["preprocess"], "perplexity")) == 1
    assert "#SBATCH" in printed["cluster"]
    assert "license: apache-2.0" in printed["export"]
    assert hub.commits[-1] == ["config.json", "export.json"]
    assert re.search(r"^ *[-0-9.]+  dish8\t", printed["recommend"], re.MULTILINE)
    assert printed["objective"].count("loss/uniformity") == 3
    before, _, after, _ = figures(printed["adapt"], "perplexity")  # of the domain, and of the first corpus
    assert after < before
    assert "characters" in printed["answer"]
    assert "recall@5 BM25 alone" in printed["answer"]
    assert "The history of" in printed["write"]
    assert "Barack Obama → Barack Obama" in printed["look"]
    assert json.loads((folder / "runs" / "tutorial" / "news" / "results.json").read_text())["figures"]["accuracy"] > 0.5


def test_every_page_is_listed_and_run() -> None:
    pages = {path.stem for path in (ROOT / "docs" / "tutorials").glob("*.md")} - {"README"}
    listed = re.findall(r"\]\((\w+)\.md\)", (ROOT / "docs" / "tutorials" / "README.md").read_text(encoding="utf-8"))
    assert tuple(listed) == PAGES
    assert set(PAGES) == pages

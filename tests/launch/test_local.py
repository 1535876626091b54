"""Ranks on this machine: they end together, and the first failure decides the exit status."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

from launch.local import run_ranks


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_ranks_see_their_place(tmp_path: Path) -> None:
    code = f"""
import os, pathlib
places = [os.environ[name] for name in ("WORLD_SIZE", "MASTER_ADDR", "LOCAL_RANK")]
pathlib.Path({str(tmp_path)!r}, os.environ["RANK"]).write_text(" ".join(places))
"""
    assert run_ranks(python(code), processes=3) == 0
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {str(rank): f"3 127.0.0.1 {rank}" for rank in range(3)}


def test_one_failure_ends_the_others_and_gives_its_status() -> None:
    began = time.monotonic()
    assert run_ranks(python("import os, sys, time; sys.exit(7) if os.environ['RANK'] == '1' else time.sleep(60)"), processes=2) == 7
    assert time.monotonic() - began < 20


def test_a_killed_rank_gives_128_plus_the_signal() -> None:
    code = "import os, signal, time; os.kill(os.getpid(), signal.SIGKILL) if os.environ['RANK'] == '0' else time.sleep(60)"
    assert run_ranks(python(code), processes=2) == 128 + signal.SIGKILL

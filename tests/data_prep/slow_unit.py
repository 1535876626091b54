"""Units that never end, for a test that kills their main process."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from data_prep.engines.processes import Processes
from data_prep.pool import Pool
from data_prep.work import Unit, WorkFolder


def units() -> list[Unit]:
    return [Unit("slow", f"key{number}", 1, "nothing", number) for number in range(2)]


def work(arguments: Any, prefix: Path) -> dict[str, Any]:
    with open(prefix.parents[1] / "pids", "a") as stream:
        stream.write(f"{os.getpid()}\n")
    time.sleep(600)
    return {}


if __name__ == "__main__":
    Pool(Processes(2), WorkFolder(sys.argv[1]), quiet=True).run(work, units(), label="slow")

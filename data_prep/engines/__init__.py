"""Where units of work are done: processes of this machine, a Ray cluster, or Slurm jobs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from data_prep.work import Unit, UnitFunction


class Engine(Protocol):
    """Does units. The work folder has to be the same folder for all of an engine's workers."""

    name: str
    workers: int

    def map_units(self, function: UnitFunction, units: Sequence[Unit], folder: Path) -> Iterator[tuple[int, dict[str, Any]]]:
        """(place in `units`, result of `run_unit`) of every unit, in any order, each as soon as it is known.

        Args:
            function: does one unit; can be imported by name.
            units: with different keys; none is finished yet.
            folder: the work folder.

        Raises:
            RWTrainError: workers were lost, and the units could not be done again.
        """
        ...

    def close(self) -> None:
        """Let go of the workers."""
        ...

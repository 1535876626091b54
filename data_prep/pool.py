"""Run the units of a stage: finished ones are found again, the others go to the engine; results are in the order of the units."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from tqdm import tqdm

from data_prep.engines import Engine
from data_prep.work import Unit, UnitFunction, WorkFolder


class Pool:
    """What stages run their units on.

    Args:
        engine: does the units.
        work: where results are kept and found again.
        quiet: show no progress bars.
    """

    def __init__(self, engine: Engine, work: WorkFolder, *, quiet: bool = False) -> None:
        self.engine = engine
        self.work = work
        self.quiet = quiet

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.engine.close()

    def run(self, function: UnitFunction, units: Sequence[Unit], *, label: str) -> list[dict[str, Any]]:
        """Results of `function(arguments, output prefix)` for all units, whatever the engine and its size.

        The progress bar counts input bytes, and shows their rate and the time left.

        Raises:
            RWTrainError: the engine lost its workers.
        """
        results = {unit.key: found for unit in units if (found := self.work.finished(unit.stage, unit.key)) is not None}
        missing = list({unit.key: unit for unit in units if unit.key not in results}.values())
        weights = {unit.key: unit.weight for unit in units}
        done = sum(weights[key] for key in results)
        with tqdm(total=sum(weights.values()), initial=done, desc=f"{label:<10}", unit="B", unit_scale=True, disable=self.quiet, mininterval=0.5) as bar:
            for number, result in self._map(function, missing):
                results[missing[number].key] = result
                bar.update(missing[number].weight)
        return [results[unit.key] for unit in units]

    def _map(self, function: UnitFunction, units: Sequence[Unit]) -> Iterator[tuple[int, dict[str, Any]]]:
        return self.engine.map_units(function, units, self.work.folder) if units else iter(())

"""How much was computed, and what energy and carbon that may have cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rwtrain.export.run import TrainedRun

GRID_G_PER_KWH = 445.0  # mean of the world's electricity in 2024, IEA "Electricity 2025"


@dataclass(frozen=True)
class Power:
    """What a rank drew.

    Attributes:
        watts: of one rank, its share of the host and of cooling included; None: unknown.
        grid: grams of CO2 equivalents per kWh.
    """

    watts: float | None = None
    grid: float = GRID_G_PER_KWH


def operations(run: TrainedRun) -> float:
    """Floating-point operations of all steps, repeated ones included, by the trainer's own count."""
    ranks = int(run.manifest["world_size"])
    return sum(line.get("tflops_per_device", 0.0) * 1e12 * line.get("step_s", 0.0) * ranks for line in run.metrics)


def compute_lines(run: TrainedRun, power: Power) -> list[str]:
    """Sentences for the model card."""
    hours, done = run.rank_hours(), operations(run)
    if not hours:
        return ["Not recorded."]
    counted = f"{done:.3g} floating-point operations in " if done else ""
    lines = [f"{counted}{hours:.3g} rank-hours (steps only; without preparation, evaluation and failed attempts)."]
    if power.watts is None:
        return [*lines, "Energy and carbon were not estimated: the power of a rank was not given."]
    energy = hours * power.watts / 1000
    carbon = energy * power.grid / 1000
    return [*lines, f"At {power.watts:g} W a rank that is {energy:.3g} kWh, and at {power.grid:g} g CO2e per kWh about {carbon:.3g} kg CO2e."]

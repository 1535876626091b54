"""The curve of a TransE training run."""

from __future__ import annotations

import io
import logging

logger = logging.getLogger(__name__)


def plot_curve(history: list[dict[str, float]]) -> bytes | None:
    """Loss and validation MRR against epochs as a PNG; None (with a warning) where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        logger.warning("no curve is drawn: matplotlib is not installed (pip install matplotlib)")
        return None
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([entry["epoch"] for entry in history], [entry["loss"] for entry in history], color="tab:blue", label="training loss")
    axes.set_xlabel("epoch")
    axes.set_ylabel("training loss", color="tab:blue")
    validated = [entry for entry in history if "mrr" in entry]
    if validated:
        right = axes.twinx()
        right.plot([entry["epoch"] for entry in validated], [entry["mrr"] for entry in validated], color="tab:orange", marker="o", markersize=3)
        right.set_ylabel("validation MRR (filtered)", color="tab:orange")
    axes.set_title("TransE")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120, metadata={"Software": None})
    return buffer.getvalue()

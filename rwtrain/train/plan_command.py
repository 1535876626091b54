"""`rwtrain plan`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from rwtrain.config.load import load_config
from rwtrain.config.schema import TrainConfig
from rwtrain.data.packing import pack
from rwtrain.data.shards import MANIFEST, ShardDataset
from rwtrain.errors import ConfigError
from rwtrain.files import atomic_path
from rwtrain.train.flops import count_parameters
from rwtrain.train.hardware import DEVICES, Device, find_device
from rwtrain.train.plan import ATTAINABLE, NODE_GPUS, USABLE_MEMORY, Cluster, Plan, Widths, check, largest_micro_batch, scaling, smallest_cluster
from rwtrain.train.setup import shape_model

EPILOG = """examples:
  rwtrain plan examples/pretrain.yaml
  rwtrain plan examples/pretrain.yaml --nodes 8 --gpus 8 --gpu h100
  rwtrain plan examples/pretrain.yaml --nodes 8 --gpus 8 --gpu h100 --price-per-gpu-hour 2.5 --plot plan.png
  rwtrain plan examples/pretrain.yaml --gpus 64 --device-memory 96 --peak-tflops 400 --json

Without --nodes and --gpus the plan is for the fewest nodes of 8 GPUs (1, 2, 4, ..., 512) on which the configuration can run.
Nothing is started and no data is needed: what the data would decide is assumed and said.
Exit status: 0 it can run, 2 it cannot (the reason is printed)."""


PACKED_DOCUMENTS = 200_000


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `rwtrain plan`."""
    parser.epilog = EPILOG
    parser.add_argument("config", help="YAML file of training settings")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides", help="replace one setting")
    parser.add_argument("--nodes", type=int, help="machines (default: 1; without --gpus, too: as few as can run it)")
    parser.add_argument("--gpus", type=int, help="GPUs of each machine (default: 8)")
    parser.add_argument("--gpu", default="h100", help=f"kind of GPU: {', '.join(DEVICES)} (default: h100)")
    parser.add_argument("--device-memory", type=float, metavar="GB", help="memory of one GPU in 10^9 bytes, instead of --gpu's")
    parser.add_argument("--peak-tflops", type=float, metavar="T", help="peak of one GPU in dense bf16, instead of --gpu's")
    parser.add_argument("--network", type=float, default=50.0, metavar="GB/S", help="bandwidth between nodes per GPU, each direction (default: 50)")
    parser.add_argument("--price-per-gpu-hour", type=float, metavar="PRICE", help="add the cost")
    parser.add_argument("--vocab-size", type=int, help="where the tokenizer is not here (default then: 32,000)")
    parser.add_argument("--entity-dim", type=int, help="where the entity store is not here (default then: 128)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw memory, speed and MFU over 8 to 4,096 GPUs")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the plan."""
    config = load_config(TrainConfig, arguments.config, arguments.overrides)
    if any(count is not None and count < 1 for count in (arguments.nodes, arguments.gpus)):
        raise ConfigError("--nodes and --gpus: at least 1 of each.")
    widths = Widths.of(config, vocab_size=arguments.vocab_size, entity_dim=arguments.entity_dim)
    cluster = _cluster(arguments, config, widths)
    plan = check(config, cluster, widths)
    best = largest_micro_batch(config, cluster, widths)
    sizes = scaling(config, cluster, widths)
    if arguments.plot is not None:
        _draw(arguments.plot, sizes, cluster)
    assumptions = _assumptions(cluster, widths)
    if arguments.nodes is None and arguments.gpus is None:
        assumptions.insert(0, f"{cluster.nodes} x {cluster.gpus} GPUs, the fewest that can run it as configured (--nodes, --gpus)")
    parameters = count_parameters(shape_model(config, vocab_size=widths.vocab_size, entity_dim=widths.entity_dim, image_tokens=widths.image_tokens))
    if arguments.json:
        found = {
            "parameters": parameters.total,
            "packing_fill": packing_fill(config),
            **plan.as_dict(),
            "largest_micro_batch": best and {"accumulation": best.accumulation, "rows": best.rows, "memory_bytes": best.memory.total, "step_s": best.step_s},
            "scaling": [
                {"world_size": ranks, "same_batch": one and one.as_dict(), "same_rows_per_gpu": other and other.as_dict(), "reason": reason or None}
                for ranks, one, other, reason in sizes
            ],
            "assumptions": assumptions,
        }
        print(json.dumps(found))
        return 0
    print(f"{arguments.config}: {parameters.total:,} parameters on {cluster.nodes} x {cluster.gpus} {cluster.device.name}\n")
    for name, value in _rows(config, plan, best):
        print(f"  {name:<36}{value}")
    if (fill := packing_fill(config)) is not None:
        print(f"  {'packed rows':<36}{fill:.1%} full")
    print("\nOver world sizes, at the configured global batch with the largest micro-batch that fits, and at the same rows per GPU:\n")
    print(f"  {'GPUs':>5}{'acc.':>6}{'GB/GPU':>8}{'s/step':>8}{'tokens/s':>14}{'MFU':>7}{'days':>8}   | {'tokens/step':>13}{'tokens/s':>14}{'MFU':>7}")
    for ranks, one, other, reason in sizes:
        left = (
            f"{one.accumulation:>6}{one.memory.total / 1e9:>8.1f}{one.step_s:>8.2f}{one.tokens_per_s:>14,.0f}{one.mfu:>7.1%}{one.days:>8.1f}"
            if one
            else f"{'–':>6}{'':>45}"
        )
        right = f"{other.tokens_per_step:>13,}{other.tokens_per_s:>14,.0f}{other.mfu:>7.1%}" if other else f"{'–':>13}"
        print(f"  {ranks:>5}{left}   | {right}" + (f"   {reason}" if reason else ""))
    print("\nAssumptions:\n" + "\n".join(f"  - {line}" for line in assumptions))
    return 0


def _cluster(arguments: argparse.Namespace, config: TrainConfig, widths: Widths) -> Cluster:
    """What the arguments name; the smallest that can run the configuration where they name none."""
    device, network, price = _device(arguments), arguments.network, arguments.price_per_gpu_hour
    if arguments.nodes is None and arguments.gpus is None:
        return smallest_cluster(config, device, widths, network_gb_s=network, price_per_gpu_hour=price)
    return Cluster(arguments.nodes or 1, arguments.gpus or NODE_GPUS, device, network, price)


def _device(arguments: argparse.Namespace) -> Device:
    if arguments.device_memory and arguments.peak_tflops:
        return Device("GPU", arguments.device_memory, arguments.peak_tflops)
    device = find_device(arguments.gpu)
    return Device(device.name, arguments.device_memory or device.memory_gb, arguments.peak_tflops or device.peak_tflops, device.memory_gb_s, device.link_gb_s)


def packing_fill(config: TrainConfig) -> float | None:
    """Share of the packed rows' places that hold a token, over at most `PACKED_DOCUMENTS` documents of each source; None where the data is not here."""
    sources = config.data.text
    if not all((Path(source.path) / MANIFEST).is_file() for source in sources):
        return None
    fills = [pack(ShardDataset(source.path).lengths[:PACKED_DOCUMENTS], config.batch.seq_len).fill for source in sources]
    return sum(source.weight * fill for source, fill in zip(sources, fills, strict=True)) / sum(source.weight for source in sources)


def _rows(config: TrainConfig, plan: Plan, best: Plan | None) -> list[tuple[str, str]]:
    memory = plan.memory
    lines = [
        ("memory per GPU", f"{memory.total / 1e9:.1f} GB of {USABLE_MEMORY * plan.device.memory_gb:.1f} usable"),
        ("  parameters, gathered", f"{memory.parameters / 1e9:.2f}, {memory.gathered / 1e9:.2f} GB"),
        ("  gradients, DeepSpeed's buckets", f"{memory.gradients / 1e9:.2f}, {memory.buffers / 1e9:.2f} GB"),
        ("  optimiser, its update", f"{memory.optimizer / 1e9:.2f}, {memory.update / 1e9:.2f} GB"),
        ("  activations, largest operation", f"{memory.activations / 1e9:.2f}, {memory.working / 1e9:.2f} GB"),
        ("host memory per GPU", f"{memory.host / 1e9:.1f} GB" if memory.host else ""),
        ("rows of a micro-batch, accumulation", f"{plan.rows} x {plan.accumulation}"),
        (
            "largest micro-batch that fits",
            f"{best.rows} rows x {best.accumulation}, {best.memory.total / 1e9:.1f} GB, {best.step_s:.2f} s a step" if best else "",
        ),
        ("sent per GPU and step", f"{plan.communication['gather'] / 1e9:.2f} GB of weights, {plan.communication['reduce'] / 1e9:.2f} GB of gradients"),
        ("step", f"{plan.step_s:.2f} s: computing {plan.compute_s:.2f}, communicating {plan.communication_s:.2f}, update {plan.update_s:.3f}"),
        ("speed", f"{plan.tokens_per_s:,.0f} tokens/s, {plan.tokens_per_s / plan.world_size:,.0f} per GPU, MFU {plan.mfu:.1%}"),
        ("operations per step", f"{plan.model_flops:.3g} on {plan.tokens_per_step:,} tokens"),
        (
            "to the goal",
            f"{config.steps:,} steps, {config.steps * plan.tokens_per_step / 1e9:,.1f} billion tokens, {plan.days:.1f} days, {plan.gpu_hours:,.0f} GPU hours",
        ),
        ("cost", f"{plan.cost:,.0f}" if plan.cost is not None else ""),
        (
            "checkpoint on disk",
            f"{plan.checkpoint_bytes / 1e9:.1f} GB, {config.checkpoint.keep} kept: {config.checkpoint.keep * plan.checkpoint_bytes / 1e9:.0f} GB",
        ),
    ]
    return [(name, value) for name, value in lines if value]


def _assumptions(cluster: Cluster, widths: Widths) -> list[str]:
    return [
        f"matrix products reach {ATTAINABLE:.0%} of the peak of {cluster.device.peak_tflops:g} TFLOP/s (half of it in fp32)",
        "recomputed activations take time but do not count for MFU",
        f"links of {cluster.device.link_gb_s:g} GB/s in a node, {cluster.network_gb_s:g} GB/s per GPU between nodes; ring collectives at the slowest link",
        "weights are gathered while computing; gradients are reduced after it, unless overlap_comm is set",
        f"{1 - USABLE_MEMORY:.0%} of the memory is lost to the CUDA context, NCCL and fragmentation",
        "every row is full; data and checkpoints do not stall the step",
        *widths.assumed,
    ]


def _draw(path: Path, sizes: list[tuple[int, Plan | None, Plan | None, str]], cluster: Cluster) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(12, 3.4), layout="constrained")
    panels = (
        ("memory per GPU, GB", lambda plan: plan.memory.total / 1e9),
        ("tokens per second", lambda plan: plan.tokens_per_s),
        ("MFU, %", lambda plan: 100 * plan.mfu),
    )
    for axis, (title, value) in zip(axes, panels, strict=True):
        for label, place, color in (("same global batch", 1, "#1f4e82"), ("same rows per GPU", 2, "#d98324")):
            points = [(entry[0], value(plan)) for entry in sizes if isinstance(plan := entry[place], Plan)]
            axis.plot([ranks for ranks, _ in points], [number for _, number in points], marker="o", markersize=4, color=color, label=label)
        axis.set_xscale("log", base=2)
        axis.set_xticks([entry[0] for entry in sizes], [str(entry[0]) for entry in sizes], fontsize=7, rotation=45)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel(f"{cluster.device.name} GPUs", fontsize=8)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    axes[1].set_yscale("log")
    axes[0].axhline(USABLE_MEMORY * cluster.device.memory_gb, color="#c0392b", linestyle="--", linewidth=1, label="usable")
    axes[0].legend(fontsize=8)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
    plt.close(figure)

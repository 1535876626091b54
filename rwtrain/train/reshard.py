"""Load a checkpoint into an engine of another shape: other ranks, another ZeRO stage, another precision.

DeepSpeed's own way (`ds_to_universal`, then `load_universal`) writes the whole checkpoint a second time, and its stage-3 loader gives
every parameter group the hyperparameters of the first, so that norms and biases would silently begin to decay. Here every rank reads
just its own pieces, a chunk at a time, from the checkpoint's files into the tensors that the new engine already holds, and then has
DeepSpeed load that state as if it came from files of its own shape.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from rwtrain.errors import DataError
from rwtrain.train.stored_weights import Stored
from rwtrain.train.zero import ADAM, AVERAGE, files_of, read_states

Slot = tuple[str, int, int, dict[str, torch.Tensor]]


def load_resharded(engine: Any, folder: Path) -> int:
    """Restore parameters, AdamW's states, schedule, loss scale and counters; return the checkpoint's step. Collective.

    Args:
        engine: a freshly built DeepSpeed engine.
        folder: DeepSpeed's files, written for the same model by any number of ranks, with ZeRO stage 0 to 3, in any precision.

    Raises:
        DataError: the files are of another model, or of no known layout.
    """
    groups = parameter_shapes(engine)
    stored = read_states(folder, groups)
    wanted = {name: tuple(shape) for group in groups for name, shape in group.items()}
    found = {name: parts["fp32"].shape for name, parts in stored.items()}
    if found != wanted:
        different = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
        raise DataError(folder, f"its parameters are not this model's: {', '.join(different[:5])}", "Use the model settings that the run began with")
    optimizer = engine.optimizer
    if hasattr(optimizer, "checkpoint_event_prologue"):
        optimizer.checkpoint_event_prologue()
    state = optimizer.state_dict()
    for name, start, stop, places in _slots(engine, state, groups):
        for key, place in places.items():
            position = 0
            parts = stored[name]
            for chunk in parts.get(key, parts["fp32"]).chunks(start, stop):  # an average that the checkpoint lacks begins with the weights
                place[position : position + len(chunk)].copy_(chunk)
                position += len(chunk)
    model = _restore_scalars(engine, state, folder)
    _load(engine, state)
    return int(model["step"])


def load_parameters(engine: Any, weights: Mapping[str, Stored]) -> None:
    """Give parameters of a freshly built engine other values, in the precision that the optimiser keeps; every rank reads its own share. Collective.

    Args:
        weights: by name; parameters that it lacks keep their values.
    """
    optimizer = engine.optimizer
    if hasattr(optimizer, "checkpoint_event_prologue"):
        optimizer.checkpoint_event_prologue()
    state = optimizer.state_dict()
    for name, start, stop, places in _slots(engine, state, parameter_shapes(engine)):
        position = 0
        for chunk in weights[name].chunks(start, stop) if name in weights else ():
            places["fp32"][position : position + len(chunk)].copy_(chunk)
            position += len(chunk)
        if AVERAGE in places:
            places[AVERAGE].copy_(places["fp32"])
    for entry in _adam(state)["state"].values():
        entry["step"] = torch.zeros((), dtype=torch.float32)
    _load(engine, state)


def parameter_shapes(engine: Any) -> list[Mapping[str, Sequence[int]]]:
    """Name → shape of each group of parameters that the optimiser lays one after the other, as DeepSpeed saves it in its model files."""
    if isinstance(engine.optimizer, torch.optim.Optimizer):  # fp32 without ZeRO
        return [{engine.param_names[parameter]: parameter.shape for parameter in group["params"]} for group in engine.optimizer.param_groups]
    return engine._get_zero_param_shapes()


def _adam(state: Mapping[str, Any]) -> dict[str, Any]:
    """AdamW's own state dict inside DeepSpeed's."""
    return state.get("optimizer_state_dict") or state.get("base_optimizer_state") or state  # type: ignore[return-value]


def _slots(engine: Any, state: Mapping[str, Any], groups: Sequence[Mapping[str, Sequence[int]]]) -> Iterator[Slot]:
    """Where this rank's shares go: (name, first element, end, {"fp32", a key of `ADAM` or `AVERAGE`: the engine's tensor for these elements})."""
    adam = _adam(state)["state"]
    keys = (*ADAM, AVERAGE) if engine.basic_optimizer.ema_decay is not None else ADAM

    def places(flat: torch.Tensor, number: int, start: int, count: int, *, padding: int = 0) -> dict[str, torch.Tensor]:
        averages = adam.setdefault(number, {})
        for key in keys:
            if key not in averages:  # DeepSpeed makes them at the first step
                averages[key] = flat.new_zeros(flat.numel() + padding) if padding else torch.zeros_like(flat)
        tensors = {"fp32": flat} | {key: averages[key] for key in keys}
        return {key: tensor.view(-1)[start : start + count] for key, tensor in tensors.items()}

    if "fp32_flat_groups" in state:  # stage 3: this rank holds its ⌈n / ranks⌉ elements of every parameter
        rank, ranks = _place(engine)
        for number, (group, flat) in enumerate(zip(groups, state["fp32_flat_groups"], strict=True)):
            offset = 0
            for name, shape in group.items():
                share = -(-torch.Size(shape).numel() // ranks)
                start = min(rank * share, torch.Size(shape).numel())
                stop = min(start + share, torch.Size(shape).numel())
                yield name, start, stop, places(flat.data, number, offset, stop - start)
                offset += share
    elif "single_partition_of_fp32_groups" in state:  # stages 1 and 2: this rank holds one stretch of all parameters of a group, end to end
        rank, _ = _place(engine)
        flats, paddings = state["single_partition_of_fp32_groups"], state["group_paddings"]
        gaps = state.get("param_alignment_paddings") or [[0] * len(group) for group in groups]
        for number, (group, flat, padding) in enumerate(zip(groups, flats, paddings, strict=True)):
            size = flat.numel() + padding
            first, offset = rank * size, 0
            for (name, shape), gap in zip(group.items(), gaps[number], strict=True):
                start, stop = max(offset, first), min(offset + torch.Size(shape).numel(), first + size)
                if start < stop:
                    yield name, start - offset, stop - offset, places(flat.data, number, start - first, stop - start, padding=padding)
                offset += torch.Size(shape).numel() + gap
    else:  # without ZeRO every rank holds everything
        parameters = dict(engine.module.named_parameters())
        masters = [tensor for group in state.get("fp32_groups", []) for tensor in group]
        for number, name in enumerate(name for group in groups for name in group):
            master = masters[number] if masters else parameters[name]
            yield name, 0, master.numel(), places(master.data, number, 0, master.numel())


def _place(engine: Any) -> tuple[int, int]:
    """(rank, ranks) among those that share the optimiser's states."""
    group = engine.optimizer.dp_process_group
    return torch.distributed.get_rank(group), torch.distributed.get_world_size(group)


def _restore_scalars(engine: Any, state: dict[str, Any], folder: Path) -> Mapping[str, Any]:
    """Step counts, loss scale, schedule and counters; returns the first rank's model file. Hyperparameters are those of the present settings."""
    model = _open(files_of(folder, "*_model_states.pt")[0])
    optimizers = files_of(folder, "*_optim_states.pt")
    saved = _open(optimizers[0])["optimizer_state_dict"] if optimizers else model["optimizer"]
    mine, theirs = _adam(state), _adam(saved)
    step = next(iter(theirs["state"].values()))["step"]
    for entry in mine["state"].values():
        entry["step"] = torch.as_tensor(step, dtype=torch.float32).clone()
    if engine.fp16_enabled() and saved.get("dynamic_loss_scale"):
        scale, iteration = (
            (saved["loss_scaler"].cur_scale, saved["loss_scaler"].cur_iter) if "loss_scaler" in saved else (saved["cur_scale"], saved["cur_iter"])
        )
        if "loss_scaler" in state:
            state["loss_scaler"].cur_scale, state["loss_scaler"].cur_iter = scale, iteration
        else:
            state.update(cur_scale=scale, cur_iter=iteration)
    for name in model["buffer_names"]:
        engine.module.get_buffer(name).copy_(model["module"][name])
    engine.lr_scheduler.load_state_dict(model["lr_scheduler"])
    for name in ("global_steps", "global_samples", "skipped_steps"):
        setattr(engine, name, model[name])
    return model


def _open(path: Path) -> Any:
    """A file of torch.save; its tensors stay on the disk until they are used."""
    return torch.load(path, map_location="cpu", mmap=True, weights_only=False)


def _load(engine: Any, state: dict[str, Any]) -> None:
    """Have DeepSpeed take over the filled state, and renew the parameters in low precision from it."""
    optimizer = engine.optimizer
    if "fp32_flat_groups" in state or "single_partition_of_fp32_groups" in state:
        rank, ranks = _place(engine)
        states: list[Any] = [None] * ranks
        states[rank] = state
        optimizer.load_state_dict(states, load_optimizer_states=True, load_from_fp32_weights=True)
        if hasattr(optimizer, "checkpoint_event_epilogue"):
            optimizer.checkpoint_event_epilogue()
        if hasattr(optimizer, "update_lp_params"):
            optimizer.update_lp_params()
        return
    optimizer.load_state_dict(state)
    for halves, masters in zip(getattr(optimizer, "fp16_groups", []), state.get("fp32_groups", []), strict=True):
        for half, master in zip(halves, masters, strict=True):
            half.data.copy_(master.data)

"""`rwtrain train`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from rwtrain.config.deepspeed import resolve
from rwtrain.config.load import dump_yaml, load_config
from rwtrain.config.schema import TrainConfig

INIT_FLAGS = {
    "--init": "begin with all weights of a folder that `rwtrain export` wrote; the same as --set init.model=DIR",
    "--init-trunk": "begin with the trunk of a Llama, Mistral, Qwen2 or Qwen3 folder of safetensors",
    "--init-vision": "begin with the image encoder of a SigLIP, CLIP, DINOv2 or ViT folder of safetensors",
}
EPILOG = """examples:
  rwtrain train examples/demo/train.yaml --processes 2
  rwtrain train examples/demo/train.yaml --processes 2 --set steps=50 --set engine.overlays='[zero2, bf16]'
  rwtrain train examples/demo/train.yaml --dry-run
  rwtrain train continue.yaml --init runs/demo/export           # all weights of an exported model
  rwtrain train vlm.yaml --init-trunk models/llama --init-vision models/siglip

Run it again to continue from the latest checkpoint, with as many processes as before or others.
Under torchrun or srun, where RANK and WORLD_SIZE are set, it joins that job.
Exit status: 0 finished, 85 stopped by SIGTERM or SIGUSR1 with a checkpoint written, 2 a problem that you can fix,
86 too many bad steps, 87 a rank hangs (RUN/logs says which)."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `rwtrain train`."""
    parser.epilog = EPILOG
    parser.add_argument("config", help="YAML file of settings")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides", help="replace one setting, for example --set steps=100")
    for name, what in INIT_FLAGS.items():
        parser.add_argument(name, metavar="DIR", help=what)
    parser.add_argument("--processes", type=int, default=1, help="processes to start on this machine (default: 1)")
    parser.add_argument("--fallback", action="store_true", help="if the latest checkpoint is damaged, continue from the newest one before it that is whole")
    parser.add_argument("--dry-run", action="store_true", help="check settings and data, print the resolved configuration and stop")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Check everything once in this process, then train here or in child processes."""
    folders = {"model": arguments.init, "trunk": arguments.init_trunk, "vision": arguments.init_vision}
    arguments.overrides += [f"init.{name}={json.dumps(folder)}" for name, folder in folders.items() if folder]
    config = load_config(TrainConfig, arguments.config, arguments.overrides)
    if "RANK" in os.environ:
        from rwtrain.train.loop import train

        return train(config, fallback=arguments.fallback)
    from rwtrain.train.checkpoint import entries
    from rwtrain.train.initial_weights import check_initial
    from rwtrain.train.setup import check_identity, model_config, open_inputs

    resolved = resolve(config, world_size=arguments.processes)
    inputs = open_inputs(config, verify=config.data.verify)
    shape = model_config(config, inputs)
    check_identity(config, inputs)
    if not entries(Path(config.run)):
        check_initial(config.init, shape, inputs.tokenizer)
    if arguments.dry_run:
        print(dump_yaml(config), end="")
        print(f"# DeepSpeed: {resolved}\n# model: {shape.to_json_string(use_diff=True)}")
        return 0
    from launch.local import run_ranks

    command = ["-m", "rwtrain.cli", "train", arguments.config, *(f"--set={item}" for item in arguments.overrides), "--set=data.verify=false"]
    return run_ranks([sys.executable, *command, *(f"--{flag}" for flag in ("fallback", "debug") if getattr(arguments, flag))], processes=arguments.processes)

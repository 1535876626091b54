"""Time and memory of one contrastive loss, forward and backward: `infonce_run.py ours|open_clip PAIRS WIDTH REPEATS` prints a JSON object.

Needs torch, and rwtrain or open_clip. The peer's loss is loaded from its file: its package imports torchvision, which not every torch build has.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from pathlib import Path

import torch


def main() -> None:
    who, pairs, width, repeats = sys.argv[1], *map(int, sys.argv[2:5])
    torch.set_num_threads(1)
    torch.manual_seed(0)
    features = [torch.nn.functional.normalize(torch.randn(pairs, width), dim=1).requires_grad_() for _ in range(2)]
    scale = torch.tensor([14.3], requires_grad=True)
    if who == "ours":
        from rwtrain.objectives.contrastive import paired_info_nce

        content, valid = torch.arange(pairs), torch.ones(pairs)

        def loss() -> torch.Tensor:
            return paired_info_nce(*features, content, valid, scale) / pairs
    else:
        made = load_clip_loss()()

        def loss() -> torch.Tensor:
            return made(*features, scale)

    for tensor in (*features, scale):
        tensor.grad = torch.zeros_like(tensor)  # part of any training, not of the loss
    before, began = resident_bytes("VmRSS"), time.process_time()
    for _ in range(repeats):
        value = loss()
        value.backward()
    seconds = (time.process_time() - began) / repeats
    print(json.dumps({"cpu_s": seconds, "peak_bytes": resident_bytes("VmHWM") - before, "loss": value.item()}))


def load_clip_loss() -> type:
    package = importlib.util.find_spec("open_clip")
    assert package is not None, "open_clip is not installed"
    assert package.submodule_search_locations
    spec = importlib.util.spec_from_file_location("clip_loss", Path(package.submodule_search_locations[0]) / "loss.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.ClipLoss


def resident_bytes(key: str) -> int:
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line for line in status.splitlines() if line.startswith(key)).split()[1])


if __name__ == "__main__":
    main()

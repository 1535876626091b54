"""Run in a peer's environment: write windows in its format, read them at random and in order, print windows per second as JSON.

python shards_run.py datasets|litdata|streaming WINDOWS.npy FOLDER RANDOM_COUNT SECONDS
"""

import json
import sys
import time
import types
from importlib.machinery import ModuleSpec
from pathlib import Path

import numpy as np

MDS_SHARD_BYTES, LITDATA_CHUNK_BYTES, ARROW_BATCH = 1 << 26, "64MB", 1000


def stand_in_for_torchvision():
    """litdata and streaming import torchvision for images alone; the build of the package index does not load beside torch's CPU build."""
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError):
        for name in ("", ".datasets", ".io", ".transforms", ".transforms.functional"):
            module = sys.modules[f"torchvision{name}"] = types.ModuleType(f"torchvision{name}")
            module.__spec__ = ModuleSpec(module.__name__, None)
        sys.modules["torchvision.datasets"].VisionDataset = type("VisionDataset", (), {})
        sys.modules["torchvision.transforms.functional"].to_tensor = None


def open_datasets(windows, folder):
    import datasets

    datasets.disable_progress_bars()
    path = folder / "datasets"
    features = datasets.Features({"tokens": datasets.Sequence(datasets.Value("uint16"), length=windows.shape[1])})
    datasets.Dataset.from_dict({"tokens": windows}, features=features).save_to_disk(str(path))
    data = datasets.load_from_disk(str(path)).with_format("numpy")

    def in_order():
        for batch in data.iter(batch_size=ARROW_BATCH):
            yield from batch["tokens"]

    return lambda index: data[index]["tokens"], in_order


def make_row(item):
    import torch

    windows, index = np.load(item[0], mmap_mode="r"), item[1]
    for row in windows[index : index + ARROW_BATCH]:
        yield torch.from_numpy(row.astype(np.int16))


def open_litdata(windows, folder):
    import litdata

    path, source = str(folder / "litdata"), sys.argv[2]
    pieces = [(source, start) for start in range(0, len(windows), ARROW_BATCH)]
    loader = litdata.TokensLoader(block_size=windows.shape[1])
    litdata.optimize(make_row, pieces, path, chunk_bytes=LITDATA_CHUNK_BYTES, num_workers=1, item_loader=loader, reorder_files=False)
    data = litdata.StreamingDataset(path, item_loader=litdata.TokensLoader(block_size=windows.shape[1]), shuffle=False)
    return lambda index: data[index].numpy(), lambda: (row.numpy() for row in data)


def open_streaming(windows, folder):
    from streaming import MDSWriter, StreamingDataset

    path = str(folder / "mds")
    with MDSWriter(out=path, columns={"tokens": f"ndarray:uint16:{windows.shape[1]}"}, size_limit=MDS_SHARD_BYTES) as writer:
        for row in windows:
            writer.write({"tokens": row})
    data = StreamingDataset(local=path, shuffle=False, batch_size=1)
    return lambda index: data[index]["tokens"], lambda: (item["tokens"] for item in data)


def main():
    kind, windows, folder, count, limit = sys.argv[1], np.load(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5])
    if kind != "datasets":
        stand_in_for_torchvision()
    read, in_order = {"datasets": open_datasets, "litdata": open_litdata, "streaming": open_streaming}[kind](windows, folder)
    row = np.empty(windows.shape[1], np.uint16)
    order = np.random.default_rng(0).permutation(len(windows))[:count].tolist()
    for index in order[:50]:  # opens files
        row[:] = read(index)
        assert np.array_equal(row, windows[index]), f"{kind} returned other tokens"
    began, done = time.perf_counter(), 0
    for index in order:
        row[:] = read(index)
        done += 1
        if done % 64 == 0 and time.perf_counter() - began > limit:
            break
    random = done / (time.perf_counter() - began)
    began, done = time.perf_counter(), 0
    for window in in_order():
        row[:] = window
        done += 1
        if done % 64 == 0 and time.perf_counter() - began > limit:
            break
    print(json.dumps({"random": random, "sequential": done / (time.perf_counter() - began)}))


if __name__ == "__main__":
    main()

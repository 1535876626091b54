"""Accelerators by name: what their makers state. Peaks are of dense bf16 matrix products (fp16 where there is no bf16)."""

from __future__ import annotations

from dataclasses import dataclass

from rwtrain.errors import ConfigError


@dataclass(frozen=True)
class Device:
    """One accelerator.

    Attributes:
        memory_gb: in 10⁹ bytes, as the driver reports it.
        peak_tflops: 10¹² operations per second, dense, without structured sparsity.
        memory_gb_s: memory bandwidth.
        link_gb_s: to the other devices of the node, each direction.
    """

    name: str
    memory_gb: float
    peak_tflops: float
    memory_gb_s: float = 2000.0
    link_gb_s: float = 200.0


DEVICES = {
    device.name: device
    for device in (
        Device("a100", 85.0, 312, 2039, 300),
        Device("a100-40gb", 42.4, 312, 1555, 300),
        Device("b200", 190.0, 2250, 7700, 900),
        Device("h100", 85.0, 989, 3350, 450),
        Device("h200", 150.0, 989, 4800, 450),
        Device("l40s", 48.0, 362, 864, 32),
        Device("mi300x", 206.0, 1307, 5300, 448),
        Device("rtx4090", 25.3, 165, 1008, 32),
        Device("v100", 34.1, 125, 900, 150),
    )
}


def find_device(name: str) -> Device:
    """A device by its short name.

    Raises:
        ConfigError: it is not known.
    """
    try:
        return DEVICES[name.lower()]
    except KeyError:
        raise ConfigError(f"--gpu {name}: not known. Known: {', '.join(DEVICES)}; or give --device-memory and --peak-tflops.") from None


def peak_tflops_of(driver_name: str) -> float | None:
    """The peak of a device as CUDA names it ("NVIDIA H100 80GB HBM3"), None if it is not known."""
    words = driver_name.lower().replace("geforce ", "").replace("rtx ", "rtx").replace("-", " ").split()
    return next((device.peak_tflops for name, device in DEVICES.items() if name in words), None)

"""What GPUs can do. `layout` spreads networks over them, the trainer's metrics know their peak.

Figures are NVIDIA's data sheets, without sparsity; 1 GB is 10^9 bytes.
"""

from typing import NamedTuple

from heddle.errors import ConfigError


class Device(NamedTuple):
    """One GPU: its name, as in what CUDA calls it, and how many a usual machine joins closely.

    `peak_flops` are dense bfloat16 FLOP/s.
    """

    name: str
    peak_flops: float
    memory_bytes: float
    num_per_machine: int


# A device is the first whose name is part of the one that CUDA gives.
DEVICES = (
    Device("H200", 989.4e12, 141e9, 8),
    Device("H100 PCIe", 756e12, 80e9, 8),
    Device("H100 NVL", 835e12, 94e9, 2),
    Device("H100", 989.4e12, 80e9, 8),
    Device("A100", 312e12, 80e9, 8),
    Device("L40S", 362e12, 48e9, 8),
    Device("L40", 181e12, 48e9, 8),
    Device("L4", 121e12, 24e9, 8),
    Device("RTX 4090", 165.2e12, 24e9, 8),
    Device("B200", 2250e12, 180e9, 8),
)


def find_device(name: str) -> Device:
    """Return a device by its name, in any case; a ConfigError lists them."""
    for device in DEVICES:
        if device.name.lower() == name.lower():
            return device
    known = ", ".join(device.name for device in DEVICES)
    raise ConfigError(f"there is no GPU {name!r} in the table: choose one of {known}")

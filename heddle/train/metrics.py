"""What a machine could compute, which model FLOPs utilisation is a share of. Called by `fit`.

What `recompute` repeats is not useful work: it is left out of MFU; the hardware does up to 4/3 as
much.
"""

import time

import torch

from heddle.model.devices import DEVICES


def peak_flops(device: torch.device) -> float | None:
    """Return the device's peak, or None for an unknown GPU; a CPU's is measured."""
    if device.type != "cuda":
        return _measured_peak()
    name = torch.cuda.get_device_name(device)
    return next((known.peak_flops for known in DEVICES if known.name in name), None)


def _measured_peak() -> float:
    """Return the best of a few float32 matrix products on the threads that PyTorch has."""
    a = torch.ones(768, 768)
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        torch.mm(a, a)
        best = min(best, time.perf_counter() - started)
    return 2 * 768**3 / best

"""How much work a training step is, and how much of the machine that uses. Called by stages, `fit`.

A backward pass does twice the work of its forward (PaLM, Chowdhery et al. 2022, arXiv:2204.02311,
appendix B); `model/cost.py` counts that, with what each token attends to and thinks. Model FLOPs
utilisation is the rate of it over the machine's peak. What `recompute` repeats is not useful work:
it is left out of MFU; the hardware does up to 4/3 as much.
"""

import time

import torch

from heddle.model.config import ModelConfig
from heddle.model.cost import forward_flops
from heddle.model.devices import DEVICES


def training_flops(
    config: ModelConfig,
    *,
    num_tokens: float,
    num_attended: float,
    num_again: float = 0.0,
    expert_channels: float = 0.0,
) -> float:
    """Return the work of one forward and backward; the arguments are those of `forward_flops`."""
    return 3 * forward_flops(
        config,
        num_tokens=num_tokens,
        num_attended=num_attended,
        num_again=num_again,
        expert_channels=expert_channels,
    )


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

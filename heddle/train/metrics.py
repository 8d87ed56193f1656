"""How much work a training step is, and how much of the machine that uses. Called by stages, `fit`.

Floating-point operations of forward and backward: 6 for each parameter of a product and token, and
12 L H C for each token that a token attends to (PaLM, Chowdhery et al. 2022, arXiv:2204.02311,
appendix B; there every token attends to the whole context, here to what causality and document
bounds leave it). Model FLOPs utilisation is their rate over the machine's peak. What `recompute`
repeats is not useful work: it is left out of MFU; the hardware does up to 4/3 as much.
"""

import time

import torch
from torch import nn

from heddle.model.config import ModelConfig

# Dense bfloat16 FLOP/s by the name that CUDA gives: NVIDIA's data sheets, without sparsity.
PEAK_FLOPS = {
    "H200": 989.4e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989.4e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "RTX 4090": 165.2e12,
    "B200": 2250e12,
}


def dense_training_flops(
    model: nn.Module, config: ModelConfig, *, num_tokens: int, num_attended: int
) -> float:
    """Return the work of one forward and backward of a dense decoder.

    `num_attended` sums, over all tokens, how many tokens each attends to.
    """
    matrices = sum(p.numel() for p in model.get_submodule("layers").parameters() if p.dim() > 1)
    matrices += config.vocab_size * config.width
    attention = 12 * config.num_layers * config.num_heads * config.head_width
    return 6.0 * matrices * num_tokens + float(attention) * num_attended


def peak_flops(device: torch.device) -> float | None:
    """Return the device's peak, or None for an unknown GPU; a CPU's is measured."""
    if device.type != "cuda":
        return _measured_peak()
    name = torch.cuda.get_device_name(device)
    return next((peak for known, peak in PEAK_FLOPS.items() if known in name), None)


def _measured_peak() -> float:
    """Return the best of a few float32 matrix products on the threads that PyTorch has."""
    a = torch.ones(768, 768)
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        torch.mm(a, a)
        best = min(best, time.perf_counter() - started)
    return 2 * 768**3 / best

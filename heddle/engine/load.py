"""From a checkpoint to a network in memory, ready for the engine."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from heddle.engine.config import DTYPES, DType, EngineConfig
from heddle.engine.native import use_kernels, use_native_layers
from heddle.engine.packed_linear import MIN_PACKED_WIDTH, PackedLinear, can_pack
from heddle.engine.served_experts import ServedExperts
from heddle.errors import ConfigError
from heddle.kernels.cpu import Kernels, available
from heddle.model.experts import Experts
from heddle.model.transformer import Transformer
from heddle.weights.checkpoint import Checkpoint

log = logging.getLogger(__name__)

EXPERT_PARTS = ("gate", "up", "down")


def load_model(
    checkpoint: Checkpoint, *, dtype: DType, kernels: Kernels | None = None, page_tokens: int = 16
) -> Transformer:
    """Build the network and fill it, one tensor at a time, so that no second copy is held.

    Raises `WeightsError` when a tensor cannot be read.
    """
    precision = DTYPES[dtype]
    with torch.device("meta"):
        model = Transformer(checkpoint.config)
    if kernels is not None:
        with _one_thread():
            use_kernels(model, checkpoint, kernels)
    if can_pack(precision):
        for name, module in list(model.named_modules()):
            if isinstance(module, nn.Linear) and module.out_features >= MIN_PACKED_WIDTH:
                weight = checkpoint.load(f"{name}.weight", precision)
                bias = None
                if module.bias is not None:
                    bias = checkpoint.load(f"{name}.bias", precision)
                model.set_submodule(name, PackedLinear(weight, bias))
    for name, module in list(model.named_modules()):
        if isinstance(module, Experts):
            columns = [checkpoint.load(f"{name}.{part}", precision) for part in EXPERT_PARTS]
            model.set_submodule(name, ServedExperts(module, *columns))
    state: dict[str, Tensor] = {}
    for name, empty in model.state_dict().items():
        if name == "head.weight" and checkpoint.config.tied_embeddings:
            state[name] = state["embed.weight"]
            continue
        value = checkpoint.load(name, precision)
        assert value.shape == empty.shape, f"{name}: {value.shape} is not {empty.shape}"
        state[name] = column_major(value) if value.dim() == 2 else value
    model.load_state_dict(state, assign=True)
    model.requires_grad_(False).eval()
    if kernels is not None:
        with _one_thread():
            use_native_layers(model, checkpoint, kernels, page_tokens=page_tokens)
    return model


def chosen_kernels(config: EngineConfig) -> Kernels | None:
    """Return the kernels that a configuration asks for, None for PyTorch alone.

    Raises ConfigError for a build that is missing or that this processor cannot run.
    """
    usable = available()
    if config.kernels == "torch" or config.dtype != "float32":
        return None
    fast = [name for name in usable if name != "portable"]  # that one is slower than PyTorch
    if config.kernels == "auto" and not fast:
        reason = "old_processor" if usable else "not_built"
        log.warning("kernels=none reason=%s effect=slower", reason)
        return None
    name = fast[0] if config.kernels == "auto" else config.kernels
    if name not in usable:
        raise ConfigError(
            f"kernels {name!r} are not here or not for this processor: choose one of "
            f"{', '.join(('auto', *usable, 'torch'))}"
        )
    return Kernels(name, num_threads=config.threads or torch.get_num_threads())


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let one thread pack: the pieces are too small to be shared.

    0.11 s of processor time for SmolLM2-135M with one, 0.5 s with two on a machine that was busy.
    """
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)


def column_major(weight: Tensor) -> Tensor:
    """Lay a matrix out by columns: its product with one row then reads memory at twice the speed.

    17.7 against 8.4 GB/s for one row with PyTorch 2.13 and MKL on two cores.
    """
    return weight.t().contiguous().t()

"""A network's first weights, new ones or a checkpoint's, and which of them train.

Called by `run` and `publish`.
"""

import difflib
import math
from collections.abc import Sequence
from dataclasses import fields
from fnmatch import filter as matching

import torch
from torch import nn

from heddle.errors import ConfigError
from heddle.model.config import ModelConfig
from heddle.model.transformer import Transformer
from heddle.weights.contents import Checkpoint

# What ends a residual branch starts at zero, so that a fresh network is the identity around its
# embeddings (ReZero, Bachlechner et al. 2020, arXiv:2003.04887; as modded-nanogpt does).
ZERO = ("attention.out.weight", "ffn.down.weight", "experts.down")
# Half steps from loop to loop. With the small ones that spare a trained network's answers (-3) a
# new one learns to loop much later: docs/training.md, "The demonstration".
GATE_BIAS = 0.0
EMBEDDING_STD = 0.02  # GPT-2, Radford et al. 2019


def first_network(config: ModelConfig, start: Checkpoint | None, *, seed: int) -> Transformer:
    """Return a run's network before its first step, in float32 on the CPU.

    What `start` does not have is new, and depends on `seed` alone. Raises ConfigError for a start
    that has other parts or shapes than the network.
    """
    torch.manual_seed(seed)
    model = Transformer(config)
    initialise(model)
    if start is not None:
        _take_over(model, start)
    elif model.think is not None:
        nn.init.constant_(model.think.gate.bias, GATE_BIAS)
    return model


def train_only(model: nn.Module, patterns: Sequence[str]) -> None:
    """Freeze all parameters but those whose names match a pattern; without patterns none.

    Raises ConfigError for a pattern that matches nothing, with the nearest name.
    """
    if not patterns:
        return
    names = [name for name, _ in model.named_parameters()]
    trained: set[str] = set()
    for pattern in patterns:
        found = matching(names, pattern)
        if not found:
            [near] = difflib.get_close_matches(pattern, names, n=1, cutoff=0.0)
            raise ConfigError(f"trains: no parameter matches {pattern!r}; the nearest is {near!r}")
        trained.update(found)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)


@torch.no_grad()
def _take_over(model: Transformer, start: Checkpoint) -> None:
    """Fill a network with a checkpoint's tensors."""
    for field in fields(start.config):
        here, there = (getattr(config, field.name) for config in (model.config, start.config))
        if field.name not in ("context_length", "fabric", "think", "memory") and here != there:
            raise ConfigError(
                f"{start.path} does not fit the run's model: its {field.name} is {there}, here it "
                f"is {here}"
            )
    state = model.state_dict()
    for name in start.tensors:
        value = start.load(name, torch.float32)
        if name not in state or state[name].shape != value.shape:
            here = list(state[name].shape) if name in state else "missing"
            raise ConfigError(
                f"{start.path} does not fit the run's model: its tensor {name!r} is "
                f"{list(value.shape)}, here it is {here}"
            )
        state[name].copy_(value)


@torch.no_grad()
def initialise(model: nn.Module) -> None:
    """Fill embeddings and layers; PyTorch's generator decides.

    Other matrices get variance 1 / columns, so that states keep their size.
    """
    for name, parameter in model.named_parameters():
        if name.endswith(ZERO):
            parameter.zero_()
        elif name in ("embed.weight", "head.weight"):
            parameter.normal_(0, EMBEDDING_STD)
        elif name.startswith("layers.") and parameter.dim() == 2:
            parameter.normal_(0, 1 / math.sqrt(parameter.shape[1]))
        elif name.startswith("layers.") and name.endswith("bias"):
            parameter.zero_()

"""A network's first weights. Called by `run` for models that start from nothing."""

import math

import torch
from torch import nn

# What ends a residual branch starts at zero, so that a fresh network is the identity around its
# embeddings (ReZero, Bachlechner et al. 2020, arXiv:2003.04887; as modded-nanogpt does).
ZERO = ("attention.out.weight", "ffn.down.weight", "experts.down")
EMBEDDING_STD = 0.02  # GPT-2, Radford et al. 2019


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

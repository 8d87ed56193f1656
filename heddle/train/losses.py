"""Losses over packed tokens whose logits are never all held at once. Called by stages.

A vocabulary of 49,152 makes the logits of 16,384 tokens 3 GB in float32, and their gradient as
much again; a chunk of rows at a time, computed again in the backward pass, needs 1/16 of that.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from heddle.train.data.document import IGNORED


class TokenLoss(NamedTuple):
    """Sums over the scored tokens; `weight` is the sum of their weights."""

    negative_log_likelihood: Tensor
    squared_log_partition: Tensor
    weight: Tensor


def token_loss(
    hidden_TD: Tensor,
    head: nn.Module,
    target_T: Tensor,
    weight_T: Tensor,
    *,
    chunk_tokens: int = 1024,
) -> TokenLoss:
    """Sum the weighted cross entropy, and the squared log-partition for a z-loss.

    `head` maps states to float32 logits. The z-loss, 1e-4 of the squared log-partition's mean,
    keeps logits from drifting (PaLM, Chowdhery et al. 2022, arXiv:2204.02311, section 5).
    """

    def sums(hidden_ND: Tensor, target_N: Tensor, weight_N: Tensor) -> Tensor:
        logits_NV = head(hidden_ND)
        log_partition_N = logits_NV.logsumexp(-1)
        loss_N = log_partition_N - logits_NV.gather(-1, target_N[:, None])[:, 0]
        return torch.stack([loss_N @ weight_N, log_partition_N.square() @ weight_N])

    rows = (target_T != IGNORED).nonzero()[:, 0]
    weight_N = weight_T[rows].float()
    total = hidden_TD[:1].float().sum().mul(0).expand(2)  # so that no scored token means gradient 0
    for first in range(0, len(rows), chunk_tokens):
        chunk = rows[first : first + chunk_tokens]
        part = checkpoint(
            sums,
            hidden_TD[chunk],
            target_T[chunk],
            weight_N[first : first + chunk_tokens],
            use_reentrant=False,
        )
        total = total + part
    return TokenLoss(total[0], total[1], weight_N.sum())

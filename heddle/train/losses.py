"""Losses over packed tokens whose logits are never all held at once. Called by stages.

A vocabulary of 49,152 makes the logits of 16,384 tokens 3 GB in float32, and their gradient as
much again; a chunk of rows at a time, computed again in the backward pass, needs 1/16 of that.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax
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
    # A sum over nothing still depends on the states, so that no scored token means gradient 0.
    total = sum_by_chunk(
        sums, hidden_TD.index_select(0, rows), target_T[rows], weight_N, chunk_tokens=chunk_tokens
    ) + hidden_TD[:1].float().sum().mul(0)
    return TokenLoss(total[0], total[1], weight_N.sum())


def sum_by_chunk(
    sums: Callable[..., Tensor], *rows: Tensor, size: int = 2, chunk_tokens: int = 1024
) -> Tensor:
    """Return the sum over chunks of rows of what `sums` makes of each: a vector of `size`.

    What it makes on the way is not kept but made again in the backward pass.
    """
    total = rows[0].new_zeros(size, dtype=torch.float32)
    for chunk in zip(*(tensor.split(chunk_tokens) for tensor in rows), strict=True):
        if len(chunk[0]):
            total = total + checkpoint(sums, *chunk, use_reentrant=False)
    return total


def divergence(target_logits_NV: Tensor, logits_NV: Tensor) -> Tensor:
    """Return KL(target || other) of each row's distribution over the vocabulary."""
    log_target_NV, log_other_NV = log_softmax(target_logits_NV, -1), log_softmax(logits_NV, -1)
    return (log_target_NV.exp() * (log_target_NV - log_other_NV)).sum(-1)

"""One forward over a training batch, without logits, and how much work it was. Called by stages."""

from itertools import pairwise

import torch

from heddle.model.batch import Depth, Packed, Trace
from heddle.model.config import ModelConfig
from heddle.model.cost import expert_channels, forward_flops, keys_attended
from heddle.train.data.pack import TrainBatch


def packed_batch(batch: TrainBatch, depth: Depth | None = None) -> Packed:
    """Return a batch as the network reads it; losses make logits from its states, in chunks."""
    device = batch.token_T.device
    if depth:
        depth = depth._replace(max_T=depth.max_T.to(device), auto_T=depth.auto_T.to(device))
    nothing = torch.empty(0, dtype=torch.long, device=device)
    return Packed(batch.token_T, batch.position_T, batch.bounds_S1, nothing, depth)


def exact_depth(loops: int, num_tokens: int, *, backprop_loops: int | None = None) -> Depth:
    """Return a depth of so many loops for every token."""
    return Depth(
        torch.full((num_tokens,), loops), torch.zeros(num_tokens, dtype=torch.bool), backprop_loops
    )


@torch.no_grad()
def batch_flops(
    config: ModelConfig, batch: TrainBatch | Packed, trace: Trace, *, backward: bool = True
) -> float:
    """Return the work of a forward over a batch, and of a backward unless there is none.

    A backward pass does twice the work of its forward (PaLM, Chowdhery et al. 2022,
    arXiv:2204.02311, appendix B). What truncated backpropagation and frozen parameters save is not
    taken off.
    """
    num_again = channels = torch.zeros((), device=batch.token_T.device)
    if trace.loops_T is not None:
        num_again = (trace.loops_T - 1).sum()
    if trace.choices:
        channels = expert_channels(config, trace.choices)
    again, used = torch.stack([num_again.double(), channels.double()]).tolist()  # waits once
    forward = forward_flops(
        config,
        num_tokens=len(batch.token_T),
        num_attended=sum(
            keys_attended(config, first=0, num=end - start)
            for start, end in pairwise(batch.bounds_S1)
        ),
        num_again=again,
        expert_channels=used,
    )
    return 3 * forward if backward else forward

"""What one forward pass reads and returns: tokens of several sequences, packed end to end.

There is no batch axis and no padding. Which token may see which is the `Memory`'s business.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from heddle.model.router import Choice


class Depth(NamedTuple):
    """How often each token may pass the thinking block, 1 being the plain network.

    Where `auto_T` is true `max_T` is a bound and the token itself decides; else it is exact.
    Gradients flow through the last `backprop_loops` that the deepest token may take; None is all
    (truncated backpropagation, as in arXiv:2502.05171).
    """

    max_T: Tensor
    auto_T: Tensor
    backprop_loops: int | None = None

    def rows(self, rows: Tensor) -> "Depth":
        """Return the depth of some tokens."""
        return self._replace(max_T=self.max_T[rows], auto_T=self.auto_T[rows])


class LoopStates(NamedTuple):
    """Each token's state after its first loop, its last but one, and its last."""

    first_TD: Tensor
    before_TD: Tensor
    last_TD: Tensor


class Packed(NamedTuple):
    """Tokens of S sequences, one after the other.

    `position_T` is each token's place in its own sequence. `bounds_S1` are the offsets at which
    sequences begin, and T at the end. `output_N` picks the rows whose logits are wanted. `depth`
    None is one loop for all. `steer_TG` is added to the choice of each cluster's experts.
    `replay_TRYE`, with exact depths, marks the experts that each token takes in each loop and
    layer, whatever the routers would choose; their weights are still the routers'.
    """

    token_T: Tensor
    position_T: Tensor
    bounds_S1: tuple[int, ...]
    output_N: Tensor
    depth: Depth | None = None
    steer_TG: Tensor | None = None
    replay_TRYE: Tensor | None = None


class Trace(NamedTuple):
    """How an adaptive network read each token.

    `choices` has an entry a layer with experts, or for layers that ran as one, in the order of
    computation; those of later loops cover the tokens that still thought. The logits say whether
    the first loop will get the next token wrong, and whether more loops would leave the answer as
    it is. `states` are the thinking block's.
    """

    cluster_TG: Tensor | None = None
    choices: tuple[Choice, ...] = ()
    loops_T: Tensor | None = None
    hard_logit_T: Tensor | None = None
    settled_logit_T: Tensor | None = None
    states: LoopStates | None = None


class Out(NamedTuple):
    """The last layer's normalised state of every token; float32 logits of the wanted rows."""

    hidden_TD: Tensor
    logits_NV: Tensor
    trace: Trace = Trace()


def pack(sequences: list[list[int]], *, loops: int = 1) -> Packed:
    """Pack whole sequences, each from position 0, with logits wanted at every token."""
    bounds = [0]
    for sequence in sequences:
        bounds.append(bounds[-1] + len(sequence))
    num_tokens = bounds[-1]
    depth = None
    if loops > 1:
        depth = Depth(torch.full((num_tokens,), loops), torch.zeros(num_tokens, dtype=torch.bool))
    return Packed(
        token_T=torch.tensor([token for sequence in sequences for token in sequence]),
        position_T=torch.cat([torch.arange(len(sequence)) for sequence in sequences]),
        bounds_S1=tuple(bounds),
        output_N=torch.arange(num_tokens),
        depth=depth,
    )

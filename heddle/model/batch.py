"""What one forward pass reads and returns: tokens of several sequences, packed end to end.

There is no batch axis and no padding. Which token may see which is the `Memory`'s business.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Packed(NamedTuple):
    """Tokens of S sequences, one after the other.

    `position_T` is each token's place in its own sequence. `bounds_S1` are the offsets at which
    sequences begin, and T at the end. `output_N` picks the rows whose logits are wanted.
    """

    token_T: Tensor
    position_T: Tensor
    bounds_S1: tuple[int, ...]
    output_N: Tensor


class Out(NamedTuple):
    """The last layer's normalised state of every token; float32 logits of the wanted rows."""

    hidden_TD: Tensor
    logits_NV: Tensor


def pack(sequences: list[list[int]]) -> Packed:
    """Pack whole sequences, each from position 0, with logits wanted at every token."""
    bounds = [0]
    for sequence in sequences:
        bounds.append(bounds[-1] + len(sequence))
    return Packed(
        token_T=torch.tensor([token for sequence in sequences for token in sequence]),
        position_T=torch.cat([torch.arange(len(sequence)) for sequence in sequences]),
        bounds_S1=tuple(bounds),
        output_N=torch.arange(bounds[-1]),
    )

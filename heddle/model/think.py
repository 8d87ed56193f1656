"""The looped thinking block: hard tokens pass the network's middle layers again, up to 32 times.

    h_1 = R(e)                                        the first loop is the plain network's
    u_t = h_{t-1} + A(RMS[h_{t-1}; e]) + step_t       A of low rank, zero at first
    d_t = R_{θ+LoRA}(u_t) - h_{t-1}
    h_t = h_{t-1} + σ(W_g d_t + b) ⊙ d_t              b = -3 at first: small steps

Only tokens that still think are computed. In every loop they attend to the keys and values of the
first loop of tokens in their own aligned block, in later ones also to each other's of the same loop
there, and to those that tokens of earlier blocks gave in their last loop. So a sequence's blocks
think one after the other, and what is read at once is what is served token by token. Sources:
retrofitted recurrence (arXiv:2511.07384), thinking at hard tokens (arXiv:2511.08577), a shared
first-loop cache with a local window (arXiv:2510.24824); what the past should be seen by was chosen
by experiment (docs/experiments/loop_cache.md).
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from heddle.model.batch import Depth, LoopStates, Packed
from heddle.model.config import ModelConfig, ThinkConfig
from heddle.model.layers import Context, LayerLora, Lora
from heddle.model.router import Choice

GATE_BIAS = -3.0

# Its layers: from states, and a later loop's adapters, to new states and the experts' choices.
Block = Callable[..., tuple[Tensor, list[Choice]]]


class Thought(NamedTuple):
    """What the block made of each token, and how.

    `hard_logit_T` says whether the first loop will get the next token wrong, `settled_logit_T`
    whether more loops would leave the answer as it is; above 0 means yes.
    """

    states: LoopStates
    loops_T: Tensor
    hard_logit_T: Tensor
    settled_logit_T: Tensor
    choices: list[Choice]


class Think(nn.Module):
    """Runs the block's layers once for every token, and again for those that think on.

    A sequence that may loop goes through all of this one aligned block of tokens after the other:
    its first one in the batch with other sequences' first, then its second.
    """

    def __init__(self, config: ModelConfig, think: ThinkConfig):
        super().__init__()
        width = config.width
        self.mix_norm = nn.RMSNorm(2 * width)
        self.mix = Lora(2 * width, width, rank=think.adapter_rank)
        self.step = nn.Parameter(torch.zeros(think.max_loops - 1, width))
        self.gate = nn.Linear(width, width)
        self.loras = nn.ModuleList(
            LayerLora(config, rank=think.lora_rank) for _ in range(think.num_layers)
        )
        self.read_norm = nn.RMSNorm(width)
        self.read = nn.Linear(width, 2)
        nn.init.constant_(self.gate.bias, GATE_BIAS)
        # The largest of a number over processes that must run the same loops; alone, the number.
        self.agree: Callable[[int], int] = int
        self.patience = think.patience
        self.block_tokens = think.block_tokens

    def forward(self, x_TD: Tensor, block: Block, context: Context, packed: Packed) -> Thought:
        ones_T = torch.ones_like(packed.position_T)
        depth = packed.depth or Depth(ones_T, torch.zeros_like(ones_T, dtype=torch.bool))
        deepest = self.agree(int(depth.max_T.max()))
        rounds = []
        if deepest > 1:
            rounds = rounds_of(packed, depth, block_tokens=self.block_tokens, agree=self.agree)
        think = partial(self._think, block=block, deepest=deepest)
        return by_round(think, x_TD, context, depth, rounds)

    def _think(
        self, x_TD: Tensor, context: Context, depth: Depth, *, block: Block, deepest: int
    ) -> Thought:
        """Take tokens of which no sequence that may loop has more than one block."""
        h_TD, choices = block(x_TD, context)
        hard_logit_T, settled_logit_T = self._read(h_TD)
        loops_T = torch.ones_like(depth.max_T)
        thinks_T = ~depth.auto_T | (hard_logit_T > 0)
        settled_for_T = torch.zeros_like(loops_T)
        first_TD = before_TD = h_TD
        for loop in range(2, deepest + 1):
            rows = (thinks_T & (depth.max_T >= loop)).nonzero()[:, 0]
            if self.agree(len(rows)) == 0:
                break
            before_ND = h_TD.index_select(0, rows)
            with _gradients(deepest - loop, depth):
                entered_ND = x_TD.index_select(0, rows)
                h_ND, more = self._loop(before_ND, entered_ND, block, context.again(loop, rows))
            before_TD = before_TD.index_copy(0, rows, before_ND)
            h_TD = h_TD.index_copy(0, rows, h_ND)
            if len(rows):  # none where this process only keeps step with others
                choices += more
            loops_T[rows] = loop
            _, settled_logit_N = self._read(h_ND)
            settled_logit_T = settled_logit_T.index_copy(0, rows, settled_logit_N)
            settled_for_N = torch.where(settled_logit_N > 0, settled_for_T[rows] + 1, 0)
            settled_for_T[rows] = settled_for_N
            thinks_T[rows] &= ~(depth.auto_T[rows] & (settled_for_N > self.patience))
        context.memory.close_blocks()
        states = LoopStates(first_TD, before_TD, h_TD)
        return Thought(states, loops_T, hard_logit_T, settled_logit_T, choices)

    def _loop(
        self, h_ND: Tensor, x_ND: Tensor, block: Block, context: Context
    ) -> tuple[Tensor, list[Choice]]:
        """Pass some tokens through the block once more; `x_ND` is what first entered it."""
        u_ND = h_ND + self.mix(self.mix_norm(torch.cat([h_ND, x_ND], dim=-1)))
        u_ND = u_ND + self.step[context.loop - 2]
        u_ND, choices = block(u_ND, context, self.loras)
        change_ND = u_ND - h_ND
        return h_ND + self.gate(change_ND).sigmoid() * change_ND, choices

    def _read(self, h_TD: Tensor) -> tuple[Tensor, Tensor]:
        logits_T2 = self.read(self.read_norm(h_TD)).float()
        return logits_T2[:, 0], logits_T2[:, 1]


def rounds_of(
    packed: Packed, depth: Depth, *, block_tokens: int, agree: Callable[[int], int] = int
) -> list[Tensor]:
    """Return the rows of each round, none if all go together.

    Those of a sequence without loops are in the first.
    """
    round_T = torch.zeros_like(packed.position_T)
    if len(packed.bounds_S1) <= len(round_T):  # some sequence brings several tokens
        bounds_S1 = torch.tensor(packed.bounds_S1, device=round_T.device)
        start_S, length_S = bounds_S1[:-1], bounds_S1.diff()
        sequence_T = torch.arange(len(start_S), device=round_T.device)
        sequence_T = sequence_T.repeat_interleave(length_S)
        looped_T = (depth.max_T > 1).long()
        num_looped_S = torch.zeros_like(start_S).index_add(0, sequence_T, looped_T)
        block_T = packed.position_T // block_tokens
        round_T = block_T - block_T[start_S][sequence_T]
        round_T = torch.where(num_looped_S[sequence_T] > 0, round_T, 0)
    num_rounds = agree(int(round_T.max()) + 1)
    if num_rounds == 1:
        return []
    return [(round_T == number).nonzero()[:, 0] for number in range(num_rounds)]


def by_round(
    think: Callable[[Tensor, Context, Depth], Thought],
    x_TD: Tensor,
    context: Context,
    depth: Depth,
    rounds: list[Tensor],
) -> Thought:
    """Return what `think` makes of each round's rows, one round after the other, in one thought."""
    if not rounds:
        return think(x_TD, context, depth)
    thoughts = [
        think(x_TD.index_select(0, rows), context.part(rows), depth.rows(rows)) for rows in rounds
    ]
    return _together(thoughts, rounds)


def _together(thoughts: list[Thought], rounds: list[Tensor]) -> Thought:
    """Return the thought of all tokens from those of each round's."""
    order_T = torch.cat(rounds).argsort()

    def whole(parts: tuple[Tensor, ...]) -> Tensor:
        return torch.cat(parts).index_select(0, order_T)

    states, *others, _ = zip(*thoughts, strict=True)
    return Thought(
        LoopStates(*map(whole, zip(*states, strict=True))),
        *map(whole, others),
        choices=_choices_together(thoughts, rounds),
    )


def _choices_together(thoughts: list[Thought], rounds: list[Tensor]) -> list[Choice]:
    """Return each choice, of all tokens that went so deep, in their order."""
    choices = []
    num_a_loop = len(thoughts[0].choices) // int(thoughts[0].loops_T.max())
    for place in range(max(len(thought.choices) for thought in thoughts)):
        loop = 1 + place // num_a_loop
        rows, parts = zip(
            *(
                (rows[thought.loops_T >= loop], thought.choices[place])
                for thought, rows in zip(thoughts, rounds, strict=True)
                if place < len(thought.choices)
            ),
            strict=True,
        )
        order_N = torch.cat(rows).argsort()
        *fields, channels = zip(*parts, strict=True)
        whole = [torch.cat(each, dim=-2).index_select(-2, order_N) for each in fields]
        if channels[0] is not None:
            whole.append(torch.cat(channels).index_select(0, order_N))
        choices.append(Choice(*whole))
    return choices


def _gradients(loops_left: int, depth: Depth) -> torch.set_grad_enabled:
    """Stop gradients in a loop that more than `backprop_loops` - 1 others follow."""
    is_kept = depth.backprop_loops is None or loops_left < depth.backprop_loops
    return torch.set_grad_enabled(torch.is_grad_enabled() and is_kept)

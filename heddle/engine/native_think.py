"""The thinking block and the gate in native calls. Put in place by `native`.

Each stands for its module of `heddle.model`, which says what it computes and is its test.
"""

from functools import partial

import torch
from torch import Tensor, nn

from heddle.engine.paged_memory import PagedMemory
from heddle.kernels.cpu import Routes
from heddle.kernels.thinking import Gate, Thinking
from heddle.model.batch import Depth, LoopStates, Packed
from heddle.model.layers import Context
from heddle.model.memory import Memory
from heddle.model.router import Choice, Routing
from heddle.model.think import Block, Thought, by_round, rounds_of


class NativeGate(nn.Module):
    """The gate over clusters."""

    def __init__(self, gate: Gate):
        super().__init__()
        self._gate = gate

    def forward(self, x_TD: Tensor, memory: Memory) -> Tensor:
        """See `heddle.model.router.Gate`."""
        assert isinstance(memory, PagedMemory), "a native gate reads the engine's cache"
        return self._gate.shares(
            x_TD,
            memory.spans,
            memory.position_T,
            memory.pages.mean_PJ,
            page_tokens=memory.pages.page_tokens,
        )

    def routing(self, cluster_TG: Tensor, steer_TG: Tensor | None) -> Routing:
        """See `heddle.model.router.Gate`."""
        return Routing(cluster_TG, *self._gate.told(cluster_TG, steer_TG))


class NativeThink(nn.Module):
    """The thinking block, of which each further loop is one call.

    Who thinks on is said in plain numbers: for few tokens sooner done than by tensors.
    """

    def __init__(self, thinking: Thinking, *, block_tokens: int, patience: int):
        super().__init__()
        self._thinking = thinking
        self._block_tokens, self._patience = block_tokens, patience

    def forward(self, x_TD: Tensor, block: Block, context: Context, packed: Packed) -> Thought:
        """See `heddle.model.think.Think`."""
        depth = packed.depth
        if depth is None or (deepest := int(depth.max_T.max())) == 1:
            return self._once(x_TD, block, context)
        rounds = rounds_of(packed, depth, block_tokens=self._block_tokens)
        think = partial(self._think, block=block, deepest=deepest)
        return by_round(think, x_TD, context, depth, rounds)

    def _once(self, x_TD: Tensor, block: Block, context: Context) -> Thought:
        h_TD, choices = block(x_TD, context)
        hard_T, settled_T = self._thinking.read(h_TD).unbind(1)
        context.memory.close_blocks()
        ones_T = torch.ones(len(h_TD), dtype=torch.long)
        return Thought(LoopStates(h_TD, h_TD, h_TD), ones_T, hard_T, settled_T, choices)

    def _think(
        self, x_TD: Tensor, context: Context, depth: Depth, *, block: Block, deepest: int
    ) -> Thought:
        h_TD, choices = block(x_TD, context)
        said_T2 = self._thinking.read(h_TD)
        hard, settled_T = said_T2[:, 0].tolist(), said_T2[:, 1].clone()
        max_loops, is_auto = depth.max_T.tolist(), depth.auto_T.tolist()
        loops, settled_for = [1] * len(h_TD), [0] * len(h_TD)
        thinks = [logit > 0 or not auto for logit, auto in zip(hard, is_auto, strict=True)]
        first_TD = before_TD = h_TD
        for loop in range(2, deepest + 1):
            rows = [row for row, most in enumerate(max_loops) if thinks[row] and most >= loop]
            if not rows:
                break
            rows_N = None if len(rows) == len(h_TD) else torch.tensor(rows)
            before_ND = _at(h_TD, rows_N)
            h_ND, said_N2, more = self._again(before_ND, _at(x_TD, rows_N), context, loop, rows_N)
            choices += more
            before_TD, h_TD = _put(before_TD, rows_N, before_ND), _put(h_TD, rows_N, h_ND)
            settled_T = _put(settled_T, rows_N, said_N2[:, 1])
            for row, (_, settled) in zip(rows, said_N2.tolist(), strict=True):
                loops[row] = loop
                settled_for[row] = settled_for[row] + 1 if settled > 0 else 0
                if is_auto[row] and settled_for[row] > self._patience:
                    thinks[row] = False
        context.memory.close_blocks()
        states = LoopStates(first_TD, before_TD, h_TD)
        return Thought(states, torch.tensor(loops), said_T2[:, 0], settled_T, choices)

    def _again(
        self, h_ND: Tensor, x_ND: Tensor, context: Context, loop: int, rows_N: Tensor | None
    ) -> tuple[Tensor, Tensor, list[Choice]]:
        """Return the states of a further loop, what they say, and what its layers chose."""
        memory, h_ND = context.memory, h_ND.clone()
        assert isinstance(memory, PagedMemory), "a native block reads the engine's cache"
        routing = context.routing
        if routing is not None and rows_N is not None:
            routing = routing.rows(rows_N)
        num_layers = len(self._thinking.layers)
        routes = None if routing is None else routes_of(routing, num_layers)
        said_N2 = self._thinking.again(
            h_ND,
            x_ND,
            memory.tokens_again(context.angles, loop, rows_N),
            memory.pages.native,
            loop=loop,
            routes=routes,
        )
        return h_ND, said_N2, [] if routes is None else [choice_of(routes)]


def routes_of(routing: Routing, num_layers: int) -> Routes:
    """Return what is said of each token's experts, with room for the choices of some layers."""
    num, num_experts = routing.bias_TE.shape
    chosen_3LTE = torch.empty(3, num_layers, num, num_experts)
    return Routes(routing.log_prior_TE, routing.bias_TE, chosen_3LTE, torch.zeros(num))


def choice_of(routes: Routes) -> Choice:
    """Return what layers that ran as one have chosen."""
    return Choice(*routes.chosen_3LTE.unbind(0), channels_T1=routes.channels_T[:, None])


def _at(x_TD: Tensor, rows_N: Tensor | None) -> Tensor:
    return x_TD if rows_N is None else x_TD.index_select(0, rows_N)


def _put(x_TD: Tensor, rows_N: Tensor | None, value_ND: Tensor) -> Tensor:
    return value_ND if rows_N is None else x_TD.index_copy(0, rows_N, value_ND)

"""The network: embed, gate, run the layers, some of them again for hard tokens, project.

Built by `engine/load.py`, the trainer and the tests. With neither fabric nor thinking block it is
a plain decoder, and it computes the same with both at one loop while new experts are still zero.
"""

from functools import partial

from torch import Tensor, nn

from heddle.model.batch import Out, Packed, Trace
from heddle.model.config import ModelConfig
from heddle.model.layers import Context, Embedding, Head, Layer, Layers, RMSNorm
from heddle.model.memory import Memory, WholeSequences
from heddle.model.rope import Rope
from heddle.model.router import Choice, Gate, Routing
from heddle.model.think import Think


class Transformer(nn.Module):
    """A decoder; its parameter names are the names that `weights` reads and writes."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.embed = Embedding(config)
        self.rope = Rope(config.rope, head_width=config.head_width)
        self.gate = Gate(config.fabric, width=config.width) if config.fabric else None
        self.layers = Layers(Layer(config, layer=i) for i in range(config.num_layers))
        self.think = Think(config, config.think) if config.think else None
        self.norm = RMSNorm(config.width, eps=config.norm_eps)
        self.head = Head(config)
        if config.tied_embeddings:
            self.head.weight = self.embed.weight

    def forward(self, packed: Packed, memory: Memory | None = None) -> Out:
        """Return states of all T tokens and float32 logits of the N wanted rows.

        Without a memory the sequences are whole, each from its first token.
        """
        if memory is None:
            memory = self.whole_sequences(packed.bounds_S1)
        x_TD: Tensor = self.embed(packed.token_T)
        context = Context(
            angles=self.rope(packed.position_T, x_TD.dtype),
            memory=memory,
            routing=self._route(x_TD, packed, memory),
            replay_TRYE=packed.replay_TRYE,
        )
        choices: list[Choice] = []
        thought, end = None, 0
        if self.think is not None and self.config.think is not None:
            first = self.config.think.first_layer
            end = first + self.config.think.num_layers
            x_TD, choices = self.layers(x_TD, context, part=slice(first))
            block = partial(self.layers, part=slice(first, end))
            thought = self.think(x_TD, block, context, packed)
            x_TD = thought.states.last_TD
            choices += thought.choices
        x_TD, more = self.layers(x_TD, context, part=slice(end, None))
        choices += more
        hidden_TD = self.norm(x_TD)
        trace = Trace(
            cluster_TG=context.routing.cluster_TG if context.routing else None,
            choices=tuple(choices),
            loops_T=thought.loops_T if thought else None,
            hard_logit_T=thought.hard_logit_T if thought else None,
            settled_logit_T=thought.settled_logit_T if thought else None,
            states=thought.states if thought else None,
        )
        return Out(hidden_TD, self.head(hidden_TD[packed.output_N]), trace)

    def whole_sequences(self, bounds_S1: tuple[int, ...]) -> WholeSequences:
        """Return the memory of sequences that are present from their first token."""
        think = self.config.think
        return WholeSequences(
            bounds_S1,
            block_tokens=think.block_tokens if think else 64,
            config=self.config.memory,
        )

    def _route(self, x_TD: Tensor, packed: Packed, memory: Memory) -> Routing | None:
        if self.gate is None:
            return None
        return self.gate.routing(self.gate(x_TD, memory), packed.steer_TG)

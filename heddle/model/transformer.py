"""The decoder: embed, run the layers, project. Built by `engine/load.py` and the tests."""

from torch import Tensor, nn

from heddle.model.batch import Out, Packed
from heddle.model.config import ModelConfig
from heddle.model.layers import Head, Layer, RMSNorm
from heddle.model.memory import Memory
from heddle.model.rope import Rope


class Transformer(nn.Module):
    """A dense decoder; its parameter names are the names that `weights` reads and writes."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocab_size, config.width)
        self.rope = Rope(config.rope, head_width=config.head_width)
        self.layers = nn.ModuleList(Layer(config, layer=i) for i in range(config.num_layers))
        self.norm = RMSNorm(config.width, eps=config.norm_eps)
        self.head = Head(config)
        if config.tied_embeddings:
            self.head.weight = self.embed.weight

    def forward(self, packed: Packed, memory: Memory) -> Out:
        """Return states of all T tokens and float32 logits of the N wanted rows."""
        x_TD: Tensor = self.embed(packed.token_T)
        angles = self.rope(packed.position_T, x_TD.dtype)
        for layer in self.layers:
            x_TD = layer(x_TD, angles, memory)
        hidden_TD = self.norm(x_TD)
        return Out(hidden_TD, self.head(hidden_TD[packed.output_N]))

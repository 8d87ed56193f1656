"""The network's modules that run in native kernels. Put in place by `load`.

They take the place of modules of `heddle.model`, which stays the one description of the network:
a product, the vocabulary, a norm, rotation angles, or neighbouring layers in one call: all of a
dense network, or those before, in and behind a thinking block, one call for each of its loops.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from heddle.engine.native_think import NativeGate, NativeThink, choice_of, routes_of
from heddle.engine.paged_memory import PagedMemory
from heddle.engine.served_experts import ServedExpert, ServedExperts
from heddle.kernels.cpu import (
    NORM_UNIT,
    Kernels,
    LayerLoraWeights,
    Loras,
    LoraWeights,
    Stretch,
)
from heddle.kernels.packing import GROUP, Room, can_pack, pack, quantise, turn_by_turn
from heddle.kernels.parts import (
    ExpertWeights,
    Index,
    LayerWeights,
    Matrix,
    PoolerWeights,
    SlotMemory,
    SlotTier,
)
from heddle.kernels.quant import QuantTensor
from heddle.kernels.thinking import Gate, GateWeights, Thinking, ThinkWeights
from heddle.model.config import MemoryConfig
from heddle.model.layers import Context, Head, Layer, RMSNorm
from heddle.model.rope import Angles, Rope
from heddle.model.router import Choice
from heddle.model.router import Gate as RouterGate
from heddle.model.slots import Pooler
from heddle.model.think import Think
from heddle.model.transformer import Transformer
from heddle.weights.contents import Checkpoint, Part

HEAD_UNIT, MAX_HEAD_WIDTH, RUN_TOKENS = 16, 256, 16  # what `native/attention.h` can read


class NativeLinear(nn.Module):
    """An `nn.Linear` over a packed matrix."""

    def __init__(self, kernels: Kernels, matrix: Matrix):
        super().__init__()
        self.matrix = matrix
        self._kernels = kernels

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` (rows, in) times the weights, plus the bias."""
        return self._kernels.product(self.matrix, x)


class NativeEmbedding(nn.Module):
    """From token ids to rows of a packed matrix, which the head may share."""

    def __init__(self, kernels: Kernels, matrix: Matrix):
        super().__init__()
        self._kernels, self._matrix = kernels, matrix

    def forward(self, token_T: Tensor) -> Tensor:
        """See `heddle.model.layers.Embedding`."""
        return self._kernels.rows(self._matrix, token_T)


class NativeNorm(nn.Module):
    """An `RMSNorm`."""

    def __init__(self, kernels: Kernels, norm: RMSNorm):
        super().__init__()
        self.weight, self._eps = norm.weight, norm.eps
        self._kernels = kernels

    def forward(self, x_TD: Tensor) -> Tensor:
        """See `heddle.model.layers.RMSNorm`."""
        return self._kernels.normalise(x_TD, self.weight, eps=self._eps)


class NativeRope(nn.Module):
    """From positions to angles."""

    def __init__(self, kernels: Kernels, rope: Rope):
        super().__init__()
        self._kernels, self._rope = kernels, rope

    def forward(self, position_T: Tensor, dtype: torch.dtype) -> Angles:
        """See `heddle.model.rope.Rope`."""
        assert dtype == torch.float32, "native layers read float32"
        rope = self._rope
        return Angles(*self._kernels.angles(position_T, rope.frequencies, magnitude=rope.magnitude))


class NativeLayers(nn.Module):
    """A network's layers, any part of them in one call."""

    def __init__(self, stretch: Stretch):
        super().__init__()
        self._stretch = stretch

    def forward(
        self, x_TD: Tensor, context: Context, *, part: slice
    ) -> tuple[Tensor, list[Choice]]:
        """See `heddle.model.layers.Layers`; later loops are `NativeThink`'s."""
        layers = range(self._stretch.num_layers)[part]
        if not layers:
            return x_TD, []
        memory, x_TD = context.memory, x_TD.clone()
        assert isinstance(memory, PagedMemory), "native layers read the engine's cache"
        tokens, caches = memory.tokens(context.angles), memory.pages.native
        routes = None if context.routing is None else routes_of(context.routing, len(layers))
        self._stretch.run(x_TD, tokens, caches, layers=layers, routes=routes)
        return x_TD, [] if routes is None else [choice_of(routes)]


def use_kernels(model: Transformer, checkpoint: Checkpoint, kernels: Kernels) -> None:
    """Replace the matrices that kernels can read with the numbers that the checkpoint has."""
    if can_pack(parts := checkpoint.tensors["embed.weight"]):
        vocabulary = _matrix(checkpoint, kernels, "embed", parts)
        model.set_submodule("embed", NativeEmbedding(kernels, vocabulary))
        if checkpoint.config.tied_embeddings:
            model.set_submodule("head", NativeLinear(kernels, vocabulary))
    for name, module in list(model.named_modules()):
        parts = checkpoint.tensors.get(f"{name}.weight", [])
        if isinstance(module, nn.Linear | Head) and can_pack(parts):
            matrix = _matrix(checkpoint, kernels, name, parts)
            model.set_submodule(name, NativeLinear(kernels, matrix))


def use_native_layers(
    model: Transformer, checkpoint: Checkpoint, kernels: Kernels, *, page_tokens: int
) -> None:
    """Replace the layers of a loaded network, if all their products are native already."""
    config = model.config
    layers = [layer for layer in model.layers if isinstance(layer, Layer)]
    projections = [projection for layer in layers for projection in _projections(layer)]
    blocks = [part.block_tokens for part in (config.think, config.memory) if part]
    fits = config.head_width % HEAD_UNIT == 0 and config.head_width <= MAX_HEAD_WIDTH
    fits = fits and all(size % RUN_TOKENS == 0 for size in (page_tokens, *blocks))
    if not fits or not all(isinstance(projection, NativeLinear) for projection in projections):
        return
    stretch = Stretch(
        kernels,
        [_weights(layer, kernels) for layer in layers],
        num_heads=config.num_heads,
        num_kv_heads=config.num_kv_heads,
        head_width=config.head_width,
        norm_eps=config.norm_eps,
        memory=_memory(config.memory, layers[0].attention.pool),
    )
    model.set_submodule("layers", NativeLayers(stretch))
    if model.think is not None and config.think is not None:
        first, num_layers = config.think.first_layer, config.think.num_layers
        weights, loras = _think(model.think, checkpoint, kernels)
        thinking = Thinking(stretch, weights, loras, range(first, first + num_layers))
        block = NativeThink(
            thinking, block_tokens=config.think.block_tokens, patience=config.think.patience
        )
        model.set_submodule("think", block)
    if model.gate is not None:
        model.set_submodule(
            "gate", NativeGate(Gate(kernels, _gate(model.gate, checkpoint, kernels)))
        )
    model.set_submodule("rope", NativeRope(kernels, model.rope))
    if config.width % NORM_UNIT == 0:
        model.set_submodule("norm", NativeNorm(kernels, model.norm))


def uses_kernels(model: nn.Module) -> bool:
    """Whether any module is native."""
    native = (NativeLinear, NativeEmbedding, NativeLayers)
    return any(isinstance(module, native) for module in model.modules())


def has_native_layers(model: nn.Module) -> bool:
    """Whether native layers read the cache."""
    return any(isinstance(module, NativeLayers) for module in model.modules())


def _matrix(checkpoint: Checkpoint, kernels: Kernels, name: str, parts: Sequence[Part]) -> Matrix:
    bias = f"{name}.bias"
    blocks = [part for part in parts if isinstance(part, QuantTensor)]
    return Matrix(
        pack(blocks, kernels.room),
        checkpoint.load(bias, torch.float32) if bias in checkpoint.tensors else None,
    )


def _projections(layer: Layer) -> list[nn.Module]:
    return [layer.attention.qkv, layer.attention.out, layer.ffn.gate_up, layer.ffn.down]


def _weights(layer: Layer, kernels: Kernels) -> LayerWeights:
    qkv, out, gate_up, down = (
        projection.matrix
        for projection in _projections(layer)
        if isinstance(projection, NativeLinear)
    )
    turn_by_turn(gate_up.packed)
    served = layer.experts
    experts = _experts(served, kernels) if isinstance(served, ServedExperts) else None
    q_norm, k_norm = (
        norm.weight if isinstance(norm, RMSNorm) else None
        for norm in (layer.attention.q_norm, layer.attention.k_norm)
    )
    return LayerWeights(
        attention_norm=layer.attention_norm.weight,
        ffn_norm=layer.ffn_norm.weight,
        q_norm=q_norm,
        k_norm=k_norm,
        qkv=qkv,
        out=out,
        gate_up=gate_up,
        down=down,
        experts=experts,
        pooler=_pooler(layer.attention.pool),
    )


def _pooler(pooler: Pooler | None) -> PoolerWeights | None:
    return pooler and PoolerWeights(pooler.salience.contiguous(), pooler.mass)


def _memory(memory: MemoryConfig | None, pooler: Pooler | None) -> SlotMemory | None:
    """Return how layers see what is old; all turn keys alike, `pooler` is any one's."""
    if memory is None or pooler is None:
        return None
    return SlotMemory(
        block_tokens=memory.block_tokens,
        sink_tokens=memory.sink_tokens,
        window_blocks=memory.window_blocks,
        paged_blocks=memory.paged_blocks,
        tiers=[
            SlotTier(*tier, *pooler.to_centre(tier.ratio, torch.float32)) for tier in memory.tiers
        ],
        index=_index(memory, pooler),
    )


def _index(memory: MemoryConfig, pooler: Pooler) -> Index | None:
    if memory.index_ratio is None:
        return None
    turns = pooler.to_centre(memory.index_ratio, torch.float32)
    frequencies = pooler.frequencies.float().contiguous()
    return Index(memory.index_ratio, *turns, frequencies, memory.distance_blocks)


def _rounded(checkpoint: Checkpoint, kernels: Kernels, name: str) -> Matrix:
    """Round a product to 8 bits; its columns are filled up to whole groups."""
    weight, bias = checkpoint.load(f"{name}.weight", torch.float32), f"{name}.bias"
    return Matrix(
        quantise(pad(weight, (0, -weight.shape[1] % GROUP)), kernels.room),
        checkpoint.load(bias, torch.float32) if bias in checkpoint.tensors else None,
    )


def _eps(norm: nn.RMSNorm) -> float:
    return torch.finfo(torch.float32).eps if norm.eps is None else norm.eps


def _think(think: Think, checkpoint: Checkpoint, kernels: Kernels) -> tuple[ThinkWeights, Loras]:
    def rounded(name: str) -> Matrix:
        return _rounded(checkpoint, kernels, f"think.{name}")

    weights = ThinkWeights(
        mix_norm=think.mix_norm.weight,
        mix=LoraWeights(rounded("mix.down"), rounded("mix.up")),
        step_RD=think.step.contiguous(),
        gate=rounded("gate"),
        read_norm=think.read_norm.weight,
        read=rounded("read"),
        mix_eps=_eps(think.mix_norm),
        read_eps=_eps(think.read_norm),
    )
    names = [f"think.loras.{i}" for i in range(len(think.loras))]
    return weights, Loras([_lora(checkpoint, kernels, name) for name in names])


def _gate(gate: RouterGate, checkpoint: Checkpoint, kernels: Kernels) -> GateWeights:
    return GateWeights(
        norm=gate.norm.weight,
        eps=_eps(gate.norm),
        context=_rounded(checkpoint, kernels, "gate.context"),
        clusters=_rounded(checkpoint, kernels, "gate.clusters"),
        decay=gate.decay,
        temperature=gate.temperature,
        cluster_E=gate.cluster_E,
        price_E=gate.price_E,
    )


def _lora(checkpoint: Checkpoint, kernels: Kernels, name: str) -> LayerLoraWeights:
    """Round a layer's adapters to 8 bits; ranks are filled up to whole groups."""

    def part(projection: str) -> LoraWeights:
        down, up = (
            _rounded(checkpoint, kernels, f"{name}.{projection}.{side}") for side in ("down", "up")
        )
        return LoraWeights(down, up)

    gate_up = part("gate_up")
    turn_by_turn(gate_up.up.packed)
    return LayerLoraWeights(qkv=part("qkv"), out=part("out"), gate_up=gate_up, down=part("down"))


def _experts(served: ServedExperts, kernels: Kernels) -> ExpertWeights:
    """Round experts to 8 bits; their widths are filled up to whole groups of channels."""
    router = served.router
    return ExpertWeights(
        most=router.num_chosen,
        mass=router.mass,
        prior=float(router.prior),
        scores_ED=router.scores.weight.contiguous(),
        widths_E=torch.tensor([float(expert.down_DF.shape[1]) for expert in served.experts]),
        balance_E=router.balance_E,
        experts=tuple(_expert(expert, kernels.room) for expert in served.experts),
    )


def _expert(expert: ServedExpert, room: Room) -> tuple[Matrix, Matrix] | None:
    width = expert.down_DF.shape[1]
    if width == 0:
        return None
    missing = -width % GROUP
    gate_FD, up_FD = expert.gate_up_FD.chunk(2)
    gate_up_FD = torch.cat([pad(part, (0, 0, 0, missing)) for part in (gate_FD, up_FD)])
    gate_up, down = (
        quantise(weight, room) for weight in (gate_up_FD, pad(expert.down_DF, (0, missing)))
    )
    turn_by_turn(gate_up)
    return Matrix(gate_up), Matrix(down)

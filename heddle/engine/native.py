"""The network's modules that run in native kernels. Put in place by `load`.

They take the place of modules of `heddle.model`, which stays the one description of the network:
a product, the vocabulary, a norm, rotation angles, or neighbouring layers in one call: all of a
dense network, or those before, in and behind a thinking block, one call for each of its loops.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from heddle.engine.packed_linear import PackedLinear
from heddle.engine.paged_memory import PagedMemory
from heddle.engine.served_experts import ServedExpert, ServedExperts
from heddle.kernels.cpu import (
    NORM_UNIT,
    Kernels,
    LayerLoraWeights,
    Loras,
    LoraWeights,
    Routes,
    Stretch,
    Tokens,
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
from heddle.model.config import MemoryConfig
from heddle.model.layers import Context, Head, Layer, RMSNorm
from heddle.model.rope import Angles, Rope
from heddle.model.router import Choice
from heddle.model.slots import Pooler
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

    def __init__(self, kernels: Kernels, norm: RMSNorm | nn.RMSNorm):
        super().__init__()
        self.weight = norm.weight
        self._eps = torch.finfo(torch.float32).eps if norm.eps is None else norm.eps
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


class NativeLoras(nn.Module):
    """The adapters of a thinking block."""

    def __init__(self, loras: Loras):
        super().__init__()
        self.loras = loras


class NativeLayers(nn.Module):
    """A network's layers, any part of them in one call."""

    def __init__(self, stretch: Stretch):
        super().__init__()
        self._stretch = stretch

    def forward(
        self,
        x_TD: Tensor,
        context: Context,
        loras: NativeLoras | None = None,
        *,
        part: slice,
    ) -> tuple[Tensor, list[Choice]]:
        """See `heddle.model.layers.Layers`."""
        layers = range(self._stretch.num_layers)[part]
        if not layers:
            return x_TD, []
        memory = context.memory
        assert isinstance(memory, PagedMemory), "native layers read the engine's cache"
        x_TD, routes = x_TD.clone(), None
        if context.routing is not None:
            said = (context.routing.log_prior_TE, context.routing.bias_TE)
            log_prior_TE, bias_TE = (part.contiguous() for part in said)
            chosen_3LTE = torch.empty(3, len(layers), *bias_TE.shape)
            routes = Routes(log_prior_TE, bias_TE, chosen_3LTE)
        self._stretch.run(
            x_TD,
            _tokens(context, memory),
            memory.pages.native,
            layers=layers,
            routes=routes,
            loras=loras and loras.loras,
        )
        if routes is None:
            return x_TD, []
        return x_TD, [Choice(*parts) for parts in zip(*routes.chosen_3LTE, strict=True)]


def _tokens(context: Context, memory: PagedMemory) -> Tokens:
    """Return what native layers need to know of a step's tokens, all or those of a later loop."""
    first = Tokens(
        cos_TC=context.angles.cos_T1C,
        sin_TC=context.angles.sin_T1C,
        position_T=memory.position_T,
        place_T=memory.place_T,
        spans=memory.spans,
        page_tokens=memory.pages.page_tokens,
    )
    if context.rows is None:
        return first
    return replace(
        first,
        position_T=memory.position_T[context.rows],
        place_T=None,
        spans=memory.spans_again(context.loop, context.rows),
        block_tokens=memory.pages.page_tokens,
    )


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
    if model.think is not None:
        names = [f"think.loras.{i}" for i in range(len(model.think.loras))]
        loras = [_lora(checkpoint, kernels, name) for name in names]
        model.think.set_submodule("loras", NativeLoras(Loras(loras)))
    model.set_submodule("rope", NativeRope(kernels, model.rope))
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear | PackedLinear):
            _round_product(model, checkpoint, kernels, name)
        elif isinstance(module, RMSNorm | nn.RMSNorm) and len(module.weight) % NORM_UNIT == 0:
            model.set_submodule(name, NativeNorm(kernels, module))


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


def _round_product(model: Transformer, checkpoint: Checkpoint, kernels: Kernels, name: str) -> None:
    """Round one of the thinking block's or the gate's own products to 8 bits."""
    weight = checkpoint.load(f"{name}.weight", torch.float32)
    bias = f"{name}.bias"
    if weight.shape[1] % GROUP == 0:
        bias_D = checkpoint.load(bias, torch.float32) if bias in checkpoint.tensors else None
        matrix = Matrix(quantise(weight, kernels.room), bias_D)
        model.set_submodule(name, NativeLinear(kernels, matrix))


def _lora(checkpoint: Checkpoint, kernels: Kernels, name: str) -> LayerLoraWeights:
    """Round a layer's adapters to 8 bits; ranks are filled up to whole groups."""

    def part(projection: str) -> LoraWeights:
        down, up = (
            checkpoint.load(f"{name}.{projection}.{side}.weight", torch.float32)
            for side in ("down", "up")
        )
        up = pad(up, (0, -up.shape[1] % GROUP))
        down, up = (Matrix(quantise(weight, kernels.room)) for weight in (down, up))
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

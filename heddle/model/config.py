"""The shape of a network: what a checkpoint must say before its tensors mean anything.

Read by `weights` (which fills it from GGUF or Hugging Face fields) and by every module of `model`.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

from heddle.errors import ConfigError

RopeKind = Literal["default", "linear", "llama3", "yarn"]


@dataclass(frozen=True, kw_only=True)
class RopeConfig:
    """Rotary position embedding (Su et al. 2021, arXiv:2104.09864) and its published stretchings.

    `kind` and the fields it uses follow Hugging Face `rope_scaling`:
    linear: `factor`; llama3: `factor`, `low_freq_factor`, `high_freq_factor`,
        `original_context_length`;
    yarn (arXiv:2309.00071): `factor`, `original_context_length`, `beta_fast`, `beta_slow`,
    `attention_factor`.
    """

    base: float = 10_000.0
    kind: RopeKind = "default"
    factor: float = 1.0
    original_context_length: int | None = None
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None

    def __post_init__(self):
        if self.base <= 0 or self.factor <= 0:
            raise ConfigError(
                f"rope base and factor must be positive, not {self.base} and {self.factor}"
            )
        if self.kind in ("llama3", "yarn") and not self.original_context_length:
            raise ConfigError(f"rope kind {self.kind!r} needs original_context_length")


CLUSTERS = ("factual", "spatial", "symbolic", "creative", "safety")


class Expert(NamedTuple):
    """One expert of every layer: its cluster's place in `CLUSTERS` and its width in channels."""

    cluster: int
    width: int


@dataclass(frozen=True, kw_only=True)
class FabricConfig:
    """The routing fabric: a gate over `CLUSTERS` at layer 0 and a choice of experts at every layer.

    Attributes:
        experts: every layer's experts; width 0 is the expert that does nothing.
        context_width: channels of the running mean that the gate reads beside the token.
        decay: how much of that mean a token keeps of the one before it.
        temperature: of the gate's softmax; below 1 sharpens.
        prior_strength: how much a cluster's share weighs at first in the choice of experts.
        max_experts: experts of one token at most.
        mass: fewer are taken as soon as their probability reaches this.
        cost_weight: how strongly wide experts are avoided.
    """

    experts: tuple[Expert, ...]
    context_width: int = 32
    decay: float = 0.98
    temperature: float = 1.0
    prior_strength: float = 1.0
    max_experts: int = 3
    mass: float = 0.8
    cost_weight: float = 0.0

    def __post_init__(self):
        if not self.experts:
            raise ConfigError("a fabric needs at least one expert")
        if any(not 0 <= expert.cluster < len(CLUSTERS) for expert in self.experts):
            raise ConfigError(f"an expert's cluster must lie between 0 and {len(CLUSTERS) - 1}")
        if any(expert.width < 0 for expert in self.experts):
            raise ConfigError("an expert's width must not be negative")
        if not 1 <= self.max_experts <= 3:
            raise ConfigError(f"max_experts must lie between 1 and 3, not {self.max_experts}")
        if not 0 <= self.decay < 1 or not 0 < self.mass <= 1 or self.temperature <= 0:
            raise ConfigError("decay must lie in [0, 1), mass in (0, 1], temperature above 0")


MAX_LOOPS = 32


@dataclass(frozen=True, kw_only=True)
class ThinkConfig:
    """The looped thinking block: layers `first_layer` to `first_layer + num_layers - 1`.

    Attributes:
        adapter_rank: rank of the map that mixes the prelude's state back in before each loop.
        lora_rank: rank of what later loops add to the block's own projections.
        max_loops: the most that a request may ask for, `MAX_LOOPS` at most.
        block_tokens: aligned blocks of this many tokens think one after the other. Inside its own a
            token sees the keys of the first loop and of the one it is in, of those before each
            token's last ones. A page of the cache is a block, so that a shared prefix needs nothing
            of other loops.
        patience: a token that decides itself loops so many times more while it says that it has
            settled. Others see its thoughts by the keys of its loops: these lag behind what it
            would answer.
    """

    first_layer: int
    num_layers: int
    adapter_rank: int = 64
    lora_rank: int = 16
    max_loops: int = MAX_LOOPS
    block_tokens: int = 64
    patience: int = 0

    def __post_init__(self):
        for name in ("num_layers", "adapter_rank", "lora_rank", "block_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not 1 <= self.max_loops <= MAX_LOOPS:
            raise ConfigError(f"max_loops must lie between 1 and {MAX_LOOPS}, not {self.max_loops}")
        for name in ("first_layer", "patience"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must not be negative, not {getattr(self, name)}")


class Tier(NamedTuple):
    """Summaries of one slot for every `ratio` tokens, of so many `blocks`; None: all older ones."""

    ratio: int
    blocks: int | None


@dataclass(frozen=True, kw_only=True)
class MemoryConfig:
    """Token-latent memory: the first and the newest tokens exactly, summary slots between them.

    A block's age is counted in blocks from the one that is being read or written. The youngest
    `window_blocks` are attended to exactly, the tiers cover what is older, in their order. Every
    slot pools exact keys and values; no slot is made of slots.

    Attributes:
        block_tokens: tokens of an aligned block.
        sink_tokens: the first tokens of a sequence, always exact.
        window_blocks: blocks that are exact, the current one included.
        tiers: finest first; the last one has no end, unless an index leads further back.
        paged_blocks: old blocks that each token reads exactly, in every layer, in place of their
            slots: those whose slots draw most of its attention.
        index_ratio: with it blocks are chosen by keys of their own instead, one for so many tokens,
            that say nothing of distance; see `paging`. None: by their slots.
        distance_blocks: blocks that are older are read as if they were so old, their tokens in
            order: so far a base has seen. Slots must end before that. None: as old as they are.
        max_slots: of one sequence as long as the model's context.
    """

    block_tokens: int = 64
    sink_tokens: int = 4
    window_blocks: int = 16
    tiers: tuple[Tier, ...] = (Tier(4, 4096), Tier(16, 8192), Tier(64, None))
    paged_blocks: int = 0
    index_ratio: int | None = None
    distance_blocks: int | None = None
    max_slots: int = 128 * 1024

    def __post_init__(self):
        if min(self.block_tokens, self.window_blocks) < 1 or self.sink_tokens < 0:
            raise ConfigError(
                "block_tokens and window_blocks must be at least 1, sink_tokens at least 0"
            )
        if self.sink_tokens > self.block_tokens:
            raise ConfigError(
                f"sink_tokens ({self.sink_tokens}) must fit in a block of {self.block_tokens}"
            )
        unbounded = [place for place, tier in enumerate(self.tiers) if tier.blocks is None]
        if self.index_ratio is None and unbounded != [len(self.tiers) - 1]:
            raise ConfigError("the last tier, and only the last, must have blocks None")
        if unbounded not in ([], [len(self.tiers) - 1]):
            raise ConfigError("no tier but the last may have blocks None")
        if any(tier.ratio < 1 or self.block_tokens % tier.ratio for tier in self.tiers):
            raise ConfigError(f"each tier's ratio must divide block_tokens ({self.block_tokens})")
        if self.paged_blocks < 0:
            raise ConfigError(f"paged_blocks must not be negative, not {self.paged_blocks}")
        if self.index_ratio is not None:
            self._check_index(self.index_ratio)
        if self.distance_blocks is not None:
            self._check_distance(self.distance_blocks)

    def _check_index(self, ratio: int) -> None:
        if ratio < 1 or self.block_tokens % ratio:
            raise ConfigError(f"index_ratio must divide block_tokens ({self.block_tokens})")
        if self.paged_blocks == 0:
            raise ConfigError("index_ratio chooses pages: paged_blocks must be at least 1")

    def _check_distance(self, blocks: int) -> None:
        last = self.window_blocks - 1
        for tier in self.tiers:
            if tier.blocks is None:
                raise ConfigError("distance_blocks needs tiers that end: give each its blocks")
            last += tier.blocks
        if self.index_ratio is None or blocks < last:
            raise ConfigError(
                f"distance_blocks needs an index_ratio, and window and tiers within it: it must be "
                f"at least {last}, not {blocks}"
            )

    def num_old(self, block: int) -> int:
        """Return how many blocks a token of `block` reads exactly only where they are paged in."""
        return max(0, block + 1 - self.window_blocks)

    def summarised(self, block: int) -> tuple[tuple[int, int], ...]:
        """Return which blocks, (first, end), a token of `block` sees through each tier's slots."""
        ranges, end = [], self.num_old(block)
        for tier in self.tiers:
            first = 0 if tier.blocks is None else max(0, end - tier.blocks)
            ranges.append((first, end))
            end = first
        return tuple(ranges)

    def num_slots(self, num_tokens: int) -> int:
        """Return the slots that a sequence's last token holds; a paged token fills one too."""
        block = (num_tokens - 1) // self.block_tokens
        ranges = self.summarised(block)
        summaries = sum(
            (end - first) * (self.block_tokens // tier.ratio)
            for tier, (first, end) in zip(self.tiers, ranges, strict=True)
        )
        return summaries + min(self.paged_blocks, self.num_old(block)) * self.block_tokens


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A pre-norm decoder of the Llama or Qwen kind; widths are counts of channels.

    `qk_norm` normalises queries and keys (Qwen3). `qkv_bias` and `out_bias` are biases of
    attention's projections: both with Llama's `attention_bias`, the first alone in Qwen2.
    `fabric`, `think` and `memory` make it adaptive; without them it is dense.
    """

    vocab_size: int
    width: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_width: int
    ffn_width: int
    context_length: int
    norm_eps: float = 1e-5
    rope: RopeConfig = RopeConfig()
    tied_embeddings: bool = True
    qk_norm: bool = False
    qkv_bias: bool = False
    out_bias: bool = False
    fabric: FabricConfig | None = None
    think: ThinkConfig | None = None
    memory: MemoryConfig | None = None

    def __post_init__(self):
        for name in (
            "vocab_size",
            "width",
            "num_layers",
            "num_heads",
            "num_kv_heads",
            "head_width",
            "ffn_width",
            "context_length",
        ):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} must be positive, not {getattr(self, name)}")
        if self.num_heads % self.num_kv_heads:
            raise ConfigError(
                f"num_heads ({self.num_heads}) must be a multiple of "
                f"num_kv_heads ({self.num_kv_heads})"
            )
        if self.think and self.think.first_layer + self.think.num_layers > self.num_layers:
            raise ConfigError(
                f"the thinking block ends at layer {self.think.first_layer + self.think.num_layers}"
                f", but the network has {self.num_layers}"
            )
        if self.memory and self.memory.num_slots(self.context_length) > self.memory.max_slots:
            raise ConfigError(
                f"a context of {self.context_length} tokens needs "
                f"{self.memory.num_slots(self.context_length)} memory slots, more than max_slots "
                f"({self.memory.max_slots}): lower the context or coarsen the tiers"
            )
        if self.memory and self.think and self.memory.block_tokens != self.think.block_tokens:
            raise ConfigError(
                f"memory and thinking block must share block_tokens, not "
                f"{self.memory.block_tokens} and {self.think.block_tokens}"
            )
        if self.head_width % 2:
            raise ConfigError(
                f"head_width must be even for rotary positions, not {self.head_width}"
            )

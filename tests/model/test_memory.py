"""Summary slots: exact inside the window, pooled beyond it, causal, never slots of slots."""

import math
from dataclasses import replace
from typing import NamedTuple

import pytest
import torch

from heddle.errors import ConfigError
from heddle.model.batch import pack
from heddle.model.config import MemoryConfig, ModelConfig, RopeConfig, Tier
from heddle.model.memory import WholeSequences
from heddle.model.rope import Rope, rotate
from heddle.model.slots import Pooler
from tests.model.test_adaptive import FABRIC, THINK, lively, run, sequence
from tests.tiny import tiny_config, tiny_model

MEMORY = MemoryConfig(
    block_tokens=8, sink_tokens=2, window_blocks=2, tiers=(Tier(2, 2), Tier(4, 1), Tier(8, None))
)
CONFIG = tiny_config(num_layers=4, fabric=FABRIC, think=THINK, memory=MEMORY)
PAGED_MEMORY = replace(MEMORY, paged_blocks=2)
PAGED = replace(CONFIG, memory=PAGED_MEMORY)
# No slots of what is older than three blocks; distances end where slots do.
INDEXED_MEMORY = replace(
    PAGED_MEMORY, tiers=(Tier(2, 1), Tier(4, 1)), index_ratio=2, distance_blocks=3
)
INDEXED = replace(CONFIG, memory=INDEXED_MEMORY)


def forgetful(config: ModelConfig = CONFIG):
    """A network with memory none of whose parts is still zero."""
    model = lively(config)
    torch.manual_seed(2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".pool." in name:
                parameter.normal_(0, 0.5)
    return model


class Entry(NamedTuple):
    """A key and a value of each key/value head, what is added to its logit, and a slot's block."""

    k_KC: torch.Tensor
    v_KC: torch.Tensor
    bias: float | torch.Tensor = 0.0
    block: int | None = None


def turned(rope, x_KC, at: float):
    return rotate(x_KC[None], rope(torch.tensor([at]), torch.float32))[0]


def slots_of(memory, position, k_LKC, v_LKC, pooler, rope) -> list[Entry]:
    """The slots that DESIGN says a token sees; keys come unrotated."""
    entries = []
    end = max(0, position // memory.block_tokens + 1 - memory.window_blocks)
    for number, tier in enumerate(memory.tiers):
        first = 0 if tier.blocks is None else max(0, end - tier.blocks)
        for start in range(first * memory.block_tokens, end * memory.block_tokens, tier.ratio):
            members = [i for i in range(start, start + tier.ratio) if i >= memory.sink_tokens]
            if not members:
                continue
            v_NKC = v_LKC[members]
            scores_2NK = torch.einsum("nkc,xkc->xnk", v_NKC, pooler.salience) / math.sqrt(
                v_NKC.shape[-1]
            )
            a_NK, b_NK = scores_2NK.softmax(1)
            key = (a_NK[..., None] * k_LKC[members]).sum(0)
            value = (b_NK[..., None] * v_NKC).sum(0)
            centre = start + (tier.ratio - 1) / 2
            bias = math.log(len(members)) + pooler.mass[number]
            entries.append(
                Entry(turned(rope, key, centre), value, bias, start // memory.block_tokens)
            )
        end = first
    return entries


def weights_HL(q_HC, entries: list[Entry]) -> torch.Tensor:
    """Each head's attention over entries."""
    k_LKC = torch.stack([entry.k_KC for entry in entries])
    k_LHC = k_LKC.repeat_interleave(len(q_HC) // k_LKC.shape[1], 1)
    bias_L = torch.tensor([float(entry.bias) for entry in entries])
    return (torch.einsum("hc,lhc->hl", q_HC, k_LHC) / math.sqrt(q_HC.shape[-1]) + bias_L).softmax(1)


def found_by_index(q_HC, position, k_LKC, v_LKC, pooler, rope) -> list[int]:
    """The old blocks of the highest shares, by a query that comes unrotated."""
    memory, size = pooler.memory, pooler.memory.block_tokens
    num_old = max(0, position // size + 1 - memory.window_blocks)
    q_HC = turned(rope, q_HC, memory.window_blocks * size + position % size)
    best = torch.full((len(q_HC), num_old), -math.inf)
    for start in range(0, num_old * size, memory.index_ratio):
        members = [i for i in range(start, start + memory.index_ratio) if i >= memory.sink_tokens]
        if not members:
            continue
        v_NKC = v_LKC[members]
        scores_NK = torch.einsum("nkc,kc->nk", v_NKC, pooler.salience[0]) / v_NKC.shape[-1] ** 0.5
        key_KC = (scores_NK.softmax(0)[..., None] * k_LKC[members]).sum(0)
        key_KC = turned(rope, key_KC, start % size + (memory.index_ratio - 1) / 2)
        key_HC = key_KC.repeat_interleave(len(q_HC) // len(key_KC), 0)
        logits_H = (q_HC * key_HC).sum(-1) / q_HC.shape[-1] ** 0.5
        best[:, start // size] = torch.maximum(best[:, start // size], logits_H)
    if num_old == 0:
        return []
    return best.softmax(-1).sum(0).topk(min(memory.paged_blocks, num_old)).indices.tolist()


def oracle(q_HC, position, k_LKC, v_LKC, pooler, rope) -> torch.Tensor:
    """Attend for one token by loops over what DESIGN says it sees."""
    memory, unrotated_HC = pooler.memory, q_HC
    near = (position // memory.block_tokens - memory.window_blocks + 1) * memory.block_tokens

    def nearer(i: int) -> int:
        """Where a token seems to stand."""
        age = position // memory.block_tokens - i // memory.block_tokens
        most = math.inf if memory.distance_blocks is None else memory.distance_blocks
        return i + max(0, age - most) * memory.block_tokens if age > most else i

    def exact(paged: list[int]) -> list[Entry]:
        return [
            Entry(turned(rope, k_LKC[i], nearer(i)), v_LKC[i])
            for i in range(position + 1)
            if i >= near or i < memory.sink_tokens or i // memory.block_tokens in paged
        ]

    q_HC = turned(rope, q_HC, position)
    slots = slots_of(memory, position, k_LKC, v_LKC, pooler, rope)
    entries = exact([]) + slots
    mass_L = weights_HL(q_HC, entries).sum(0).tolist()
    mass: dict[int, float] = {}
    for entry, share in zip(entries, mass_L, strict=True):
        if entry.block is not None:
            mass[entry.block] = mass.get(entry.block, 0.0) + share
    paged = sorted(mass, key=lambda block: -mass[block])[: memory.paged_blocks]
    if memory.index_ratio is not None:
        paged = found_by_index(unrotated_HC, position, k_LKC, v_LKC, pooler, rope)
    entries = exact(paged) + [slot for slot in slots if slot.block not in paged]
    v_LKC = torch.stack([entry.v_KC for entry in entries])
    v_LHC = v_LKC.repeat_interleave(len(q_HC) // v_LKC.shape[1], 1)
    return torch.einsum("hl,lhc->hc", weights_HL(q_HC, entries), v_LHC)


@pytest.mark.parametrize(
    "memory",
    [
        MEMORY,
        PAGED_MEMORY,
        replace(PAGED_MEMORY, index_ratio=4),
        INDEXED_MEMORY,
        replace(INDEXED_MEMORY, tiers=(), sink_tokens=8, distance_blocks=1),
    ],
    ids=["slots", "pages", "index", "clipped", "pages alone"],
)
def test_attention_over_slots_is_what_the_formulas_say(memory):
    torch.manual_seed(0)
    pooler = Pooler(CONFIG, memory)
    torch.nn.init.normal_(pooler.salience)
    torch.nn.init.normal_(pooler.mass)
    length = 61
    q, k, v = (torch.randn(length, heads, 16) for heads in (6, 2, 2))
    rope = Rope(RopeConfig(), head_width=16)
    at = rope(torch.arange(length), torch.float32)
    with torch.no_grad():
        got = WholeSequences((0, length), config=memory).attend(
            0, rotate(q, at), rotate(k, at), v, pooler
        )
        for position in range(length):
            want = oracle(q[position], position, k, v, pooler, rope)
            assert torch.allclose(got[position], want, atol=1e-5), position


def test_with_a_page_for_every_block_nothing_is_forgotten():
    """Sinks are not read twice, nor slots beside their pages."""
    model, tokens = forgetful(PAGED), pack([sequence(61), sequence(40, seed=1)], loops=3)
    every = replace(PAGED_MEMORY, paged_blocks=9, max_slots=10_000)
    with torch.no_grad():
        exact = model(tokens, WholeSequences(tokens.bounds_S1, block_tokens=8))
        paged = model(tokens, WholeSequences(tokens.bounds_S1, block_tokens=8, config=every))
        slots = model(tokens, WholeSequences(tokens.bounds_S1, block_tokens=8, config=MEMORY))
    assert torch.allclose(exact.logits_NV, paged.logits_NV, atol=3e-4)
    assert not torch.allclose(exact.logits_NV, slots.logits_NV, atol=1e-2)


@pytest.mark.parametrize("loops", [1, 3])
def test_distances_change_nothing_within_what_they_reach(loops):
    """Where no block is further away, bits are the same; with a longer text, what comes before."""
    free = replace(INDEXED_MEMORY, distance_blocks=None)
    model = forgetful(INDEXED)

    def logits(config: MemoryConfig, length: int) -> torch.Tensor:
        packed = pack([sequence(61)[:length]], loops=loops)
        with torch.no_grad():
            memory = WholeSequences(packed.bounds_S1, block_tokens=8, config=config)
            return model(packed, memory).logits_NV

    within = 4 * 8  # its last block is three away from the first
    assert torch.equal(logits(INDEXED_MEMORY, within), logits(free, within))
    clipped, as_it_is = logits(INDEXED_MEMORY, 61), logits(free, 61)
    assert torch.allclose(clipped[:within], as_it_is[:within], atol=3e-4)
    assert not torch.allclose(clipped[within:], as_it_is[within:], atol=1e-2)


def test_the_index_knows_no_distance():
    """Blocks of equal keys are found alike, however old."""
    memory = replace(INDEXED_MEMORY, sink_tokens=0)
    pooler = Pooler(CONFIG, memory)
    rope = Rope(RopeConfig(), head_width=16)
    k_NKC, v_NKC = torch.randn(2, 8, 2, 16)
    indexes = []
    with torch.no_grad():
        for block in (0, 7, 900):
            at = rope(torch.arange(8) + 8 * block, torch.float32)
            key = rotate(k_NKC, at)[None]
            indexes.append(pooler.index(key, v_NKC[None], torch.tensor([block])))
    assert torch.allclose(indexes[0], indexes[1], atol=1e-4)
    assert torch.allclose(indexes[0], indexes[2], atol=2e-3)  # angles are float32


def test_inside_the_window_nothing_changes():
    plain = tiny_model(tiny_config(num_layers=4))
    model = tiny_model(tiny_config(num_layers=4, memory=MEMORY))
    missing = model.load_state_dict(plain.state_dict(), strict=False).missing_keys
    assert missing and all(".attention.pool." in name for name in missing)
    short, long = pack([sequence(16)]), pack([sequence(60)])
    assert torch.equal(run(model, short).logits_NV, run(plain, short).logits_NV)
    differs = (run(model, long).logits_NV - run(plain, long).logits_NV).abs().amax(-1) > 1e-3
    assert not differs[:16].any() and differs[40:].all()


@pytest.mark.parametrize("config", [CONFIG, PAGED, INDEXED], ids=["slots", "pages", "index"])
@pytest.mark.parametrize("loops", [1, 3])
def test_no_token_sees_a_later_one_through_a_slot(loops, config):
    model, tokens = forgetful(config), sequence(61)
    whole = run(model, pack([tokens], loops=loops)).logits_NV
    for length in (15, 17, 24, 33, 48, 60):
        part = run(model, pack([tokens[:length]], loops=loops)).logits_NV
        assert torch.allclose(part, whole[:length], atol=3e-4)


@pytest.mark.parametrize("config", [CONFIG, PAGED, INDEXED], ids=["slots", "pages", "index"])
def test_packed_sequences_do_not_share_slots(config):
    model = forgetful(config)
    parts = [sequence(50), sequence(50, seed=1), sequence(9, seed=2), sequence(33, seed=3)]
    together = run(model, pack(parts, loops=2)).logits_NV
    alone = torch.cat([run(model, pack([part], loops=2)).logits_NV for part in parts])
    assert torch.allclose(together, alone, atol=3e-4)


def test_equal_tokens_weigh_through_a_slot_what_they_weigh_themselves():
    """Without positions, a slot of equal keys and values stands for them exactly."""
    config = tiny_config(rope=RopeConfig(kind="linear", factor=1e9))
    pooler = Pooler(config, MEMORY)
    length = 48
    q = torch.randn(length, 6, 16)
    k, v = (torch.randn(length // 8, 2, 16).repeat_interleave(8, 0) for _ in range(2))
    with torch.no_grad():
        exact = WholeSequences((0, length)).attend(0, q, k, v, pooler)
        slots = WholeSequences((0, length), config=MEMORY).attend(0, q, k, v, pooler)
    assert torch.allclose(exact, slots, atol=1e-5)


def test_gradients_reach_the_pooler_and_what_it_pooled():
    model = forgetful()
    model.train()
    model(pack([sequence(60)])).logits_NV[-1].logsumexp(-1).backward()
    for name, parameter in model.named_parameters():
        if ".pool." in name:
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_a_million_tokens_fit_in_the_slots_and_too_fine_tiers_are_refused():
    million = 1 << 20
    config = MemoryConfig()
    assert 0 < config.num_slots(million) <= config.max_slots
    assert config.num_slots(1024) == 0
    seen = config.summarised((million - 1) // 64)
    covered = sum(end - first for first, end in seen) + config.window_blocks
    assert covered == million // 64
    paged = replace(config, paged_blocks=16)
    assert paged.num_slots(million) == config.num_slots(million) + 16 * 64
    assert paged.num_slots(1024) == 0 and paged.num_slots(1025) == 16 + 64
    fine = MemoryConfig(tiers=(Tier(4, None),))
    with pytest.raises(ConfigError, match="needs 261888 memory slots, more than max_slots"):
        tiny_config(context_length=million, memory=fine)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tiers": (Tier(4, 8),)}, "the last tier"),
        ({"tiers": (Tier(4, None), Tier(16, None))}, "the last tier"),
        ({"tiers": ()}, "the last tier"),
        ({"tiers": (Tier(3, None),)}, "must divide block_tokens"),
        ({"window_blocks": 0}, "at least 1"),
        ({"sink_tokens": 65}, "must fit in a block"),
        ({"paged_blocks": -1}, "paged_blocks must not be negative"),
        ({"paged_blocks": 1, "index_ratio": 5}, "index_ratio must divide"),
        ({"index_ratio": 4}, "paged_blocks must be at least 1"),
        ({"distance_blocks": 64}, "needs tiers that end"),
        (
            {"tiers": (Tier(4, None), Tier(8, 2)), "paged_blocks": 1, "index_ratio": 4},
            "no tier but the last",
        ),
        (
            {
                "tiers": (Tier(4, 8),),
                "window_blocks": 2,
                "paged_blocks": 1,
                "index_ratio": 4,
                "distance_blocks": 8,
            },
            "at least 9, not 8",
        ),
    ],
)
def test_a_memory_that_cannot_be_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        MemoryConfig(**changes)


def test_thinking_and_memory_must_agree_on_blocks():
    with pytest.raises(ConfigError, match="share block_tokens"):
        tiny_config(num_layers=4, think=THINK, memory=MemoryConfig())

"""Relations are those of MiniLMv2 inside windows, and overhearing changes nothing."""

import torch

from heddle.model.batch import pack
from heddle.model.presets import adapted
from heddle.train.relations import Heads, Overhearing, relation_divergence
from tests.model.test_adaptive import lively, sequence
from tests.tiny import tiny_config, tiny_model


def heads(num_tokens: int, *, seed: int) -> Heads:
    generator = torch.Generator().manual_seed(seed)
    return Heads(*(torch.randn(num_tokens, x, 16, generator=generator) for x in (6, 2, 2)))


def plainly(theirs: Heads, ours: Heads, spans: list[tuple[int, int]]) -> float:
    total = 0.0
    for their, our in zip(theirs, ours, strict=True):
        for start, end in spans:
            for head in range(their.shape[1]):
                a, b = (
                    (x[start:end, head] @ x[start:end, head].T / 4).log_softmax(-1)
                    for x in (their, our)
                )
                total += float((a.exp() * (a - b)).sum()) / their.shape[1]
    return total / 3 / len(theirs.q_THC)


def test_divergence_is_that_of_each_window():
    theirs, ours = heads(105, seed=0), heads(105, seed=1)
    position_T = torch.cat([torch.arange(5), torch.arange(70), torch.arange(30)])
    spans = [(0, 5), (5, 69), (69, 75), (75, 105)]
    found = relation_divergence(theirs, ours, position_T)
    assert abs(float(found) - plainly(theirs, ours, spans)) < 1e-4
    assert float(relation_divergence(theirs, theirs, position_T)) == 0


def test_its_gradient_brings_relations_together():
    theirs, ours = heads(20, seed=0), Heads(*(x.requires_grad_() for x in heads(20, seed=1)))
    before = relation_divergence(theirs, ours, torch.arange(20))
    gradients = torch.autograd.grad(before, ours)
    moved = Heads(*(x - 40 * g for x, g in zip(ours, gradients, strict=True)))
    assert relation_divergence(theirs, moved, torch.arange(20)) < 0.9 * before


def test_overhearing_changes_nothing():
    model = tiny_model(adapted(tiny_config()))
    packed = pack([[1, 2, 3], [4, 5]], loops=3)
    memory = Overhearing(model.whole_sequences(packed.bounds_S1), layer=1)
    assert torch.equal(model(packed, memory).logits_NV, model(packed).logits_NV)
    assert memory.heads is not None
    assert [x.shape for x in memory.heads] == [(5, 6, 16), (5, 2, 16), (5, 2, 16)]


def test_what_blocks_are_given_one_after_the_other_stands_in_the_batchs_order():
    model, texts = lively(), [sequence(20), sequence(13, seed=1)]

    def overheard(texts: list[list[int]]) -> Heads:
        packed = pack(texts, loops=3)
        memory = Overhearing(model.whole_sequences(packed.bounds_S1), layer=2)
        with torch.no_grad():
            model(packed, memory)
        assert memory.heads is not None
        return memory.heads

    alone = [overheard([text]) for text in texts]
    for whole, parts in zip(overheard(texts), zip(*alone, strict=True), strict=True):
        torch.testing.assert_close(whole, torch.cat(parts), atol=1e-3, rtol=1e-3)

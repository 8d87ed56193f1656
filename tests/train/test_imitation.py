"""The loss by which a student learns: zero for equals, and each term reaches what it is about."""

from dataclasses import replace

import pytest
import torch

from heddle.errors import ConfigError
from heddle.model.batch import Depth, Packed
from heddle.model.presets import adapted
from heddle.model.transformer import Transformer
from heddle.train.data.document import IGNORED
from heddle.train.data.pack import TrainBatch
from heddle.train.forward import exact_depth
from heddle.train.imitation import Imitation, cluster_masses, imitation_loss
from heddle.train.student import Cut, student_config, student_tensors
from heddle.train.teacher import deeper
from tests.tiny import tiny_config, tiny_model

NONE = Imitation(output=0, reverse=0, cluster=0, halting=0, relations=0)
LENGTHS = (7, 7, 10)
NUM_TOKENS = sum(LENGTHS)


def batch() -> TrainBatch:
    token_T = torch.randint(512, (NUM_TOKENS,), generator=torch.Generator().manual_seed(0))
    target_T = token_T.roll(-1)
    ends = torch.tensor(LENGTHS).cumsum(0)
    target_T[ends - 1] = IGNORED
    return TrainBatch(
        token_T=token_T,
        target_T=target_T,
        position_T=torch.cat([torch.arange(length) for length in LENGTHS]),
        bounds_S1=(0, *ends.tolist()),
        cluster_T=torch.full((NUM_TOKENS,), -1),
        weight_T=torch.ones(NUM_TOKENS),
        part_T=torch.zeros(NUM_TOKENS, dtype=torch.long),
    )


@pytest.fixture(scope="module")
def teacher() -> Transformer:
    return tiny_model(adapted(tiny_config(num_layers=5))).requires_grad_(False)


def cut(teacher: Transformer, **changes) -> Transformer:
    config = student_config(teacher.config, Cut(**changes))
    student = Transformer(config)
    student.load_state_dict(student_tensors(teacher, config), strict=False)  # a tied head
    return student.train()


def loss(student, teacher, *, loops: int = 2, teacher_loops: int = 5, **weights):
    return imitation_loss(
        student,
        teacher,
        batch(),
        depth=exact_depth(loops, NUM_TOKENS),
        teacher_loops=teacher_loops,
        weights=replace(NONE, **weights),
    )


def test_equals_have_nothing_to_learn(teacher):
    twin = cut(teacher, num_layers=5, max_loops=5, expert_share=1.0)
    found = loss(twin, teacher, loops=5, output=4.0, reverse=0.5, cluster=0.2, relations=0.1)
    assert abs(float(found.mean.detach())) < 1e-4
    assert float(found.weight) == NUM_TOKENS - len(LENGTHS)


def test_outputs_are_compared_at_a_temperature(teacher):
    student = cut(teacher, num_layers=3, max_loops=2)
    rows = (batch().target_T != IGNORED).nonzero()[:, 0]

    def log_probs(model: Transformer, loops: int, temperature: float):
        given = batch()
        packed = Packed(
            given.token_T, given.position_T, given.bounds_S1, rows, exact_depth(loops, NUM_TOKENS)
        )
        return (model(packed).logits_NV / temperature).log_softmax(-1)

    theirs, ours = log_probs(teacher, 5, 2.0), log_probs(student, 2, 2.0)
    expected = (theirs.exp() * (theirs - ours)).sum(-1).mean()
    theirs, ours = log_probs(teacher, 5, 1.0), log_probs(student, 2, 1.0)
    reverse = (ours.exp() * (ours - theirs)).sum(-1).mean()
    found = loss(student, teacher, output=4.0, reverse=0.5)
    assert torch.allclose(found.mean, 4 * expected + 0.5 * reverse, rtol=1e-4)
    assert torch.allclose(found.metrics["output"], expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("term", "reached", "spared"),
    [
        ("output", "layers.2.ffn.down.weight", "think.read.weight"),
        ("reverse", "think.step", "think.read.weight"),
        ("cluster", "layers.1.experts.router.scores.weight", "think.read.weight"),
        ("halting", "think.read.weight", "layers.2.ffn.down.weight"),
        ("relations", "layers.1.attention.qkv.weight", "layers.1.attention.out.weight"),
    ],
)
def test_each_term_reaches_what_it_is_about(teacher, term, reached, spared):
    student = cut(teacher, num_layers=3, max_loops=2)
    loss(student, teacher, **{term: 1.0}).mean.backward()
    assert student.get_parameter(reached).grad.abs().max() > 0
    gradient = student.get_parameter(spared).grad
    assert gradient is None or gradient.abs().max() == 0


def test_following_the_gradient_lowers_it(teacher):
    student = cut(teacher, num_layers=3, max_loops=2)
    optimiser = torch.optim.AdamW(student.parameters(), lr=2e-3)
    weights = {"output": 4.0, "reverse": 0.5, "cluster": 0.2, "halting": 0.1, "relations": 0.1}
    found = [loss(student, teacher, **weights)]
    for _ in range(12):
        found[-1].mean.backward()
        optimiser.step()
        optimiser.zero_grad()
        found.append(loss(student, teacher, **weights))
    assert found[-1].mean < 0.5 * found[0].mean
    for term in ("output", "reverse"):
        assert found[-1].metrics[term] < found[0].metrics[term]


def test_cluster_masses_are_those_of_the_first_loop(teacher):
    given = batch()
    packed = Packed(given.token_T, given.position_T, given.bounds_S1, given.token_T[:0])
    once = cluster_masses(teacher, teacher(packed).trace)
    thrice_packed = packed._replace(depth=exact_depth(3, NUM_TOKENS))
    thrice = cluster_masses(teacher, teacher(thrice_packed).trace)
    assert len(once) == len(thrice) == 5
    end = teacher.config.think.first_layer + teacher.config.think.num_layers
    for layer in range(end):
        assert torch.equal(once[layer], thrice[layer])
    for mass_TG in thrice:
        assert torch.allclose(mass_TG.sum(-1), torch.ones(NUM_TOKENS))


def test_a_students_loops_stand_for_more_of_its_teachers():
    depth = Depth(torch.tensor([1, 2, 3, 4]), torch.zeros(4, dtype=torch.bool))
    assert deeper(depth, student_loops=4, teacher_loops=10).max_T.tolist() == [1, 4, 7, 10]
    assert deeper(depth, student_loops=4, teacher_loops=4).max_T.tolist() == [1, 2, 3, 4]
    assert deeper(exact_depth(1, 2), student_loops=1, teacher_loops=6).max_T.tolist() == [6, 6]


def test_weights_below_zero_are_refused():
    with pytest.raises(ConfigError, match="must not be negative"):
        Imitation(output=-1)
    with pytest.raises(ConfigError, match="temperature above 0"):
        Imitation(temperature=0)

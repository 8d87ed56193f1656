from dataclasses import replace
from pathlib import Path

import pytest
import torch

from heddle.model.cost import total_params
from heddle.tasks.table import TASKS as ALL_TASKS
from heddle.train.data.document import IGNORED
from heddle.train.forward import packed_batch
from heddle.train.initial import first_network
from recipes.experiments.chains import (
    EASY_EVERY,
    NUM_UNSTEPPED,
    Chains,
    answered,
    byte_tokenizer,
    questions,
    same_loops_elsewhere,
    training_depth,
)
from recipes.experiments.depth import (
    DEEPER,
    EXPERIMENT,
    LOOPED,
    NETWORKS,
    Form,
    by_loops,
    selection,
    trial,
)
from recipes.experiments.depth_tables import LOOPS, TASKS, TRAINED_LOOPS, tables
from recipes.experiments.experiment import as_markdown, figures_block, read_page

TINY = Form(num_steps=3, num_halting_steps=2, num_asked=7, batch_tokens=64)
CHAINS = Chains(task="cups", longest=8, num_ramp=10, batch_tokens=128, seed=3)


@pytest.fixture(scope="module")
def model():
    return first_network(LOOPED, None, seed=0).eval()


def text_of(batch, sequence):
    start, end = batch.bounds_S1[sequence : sequence + 2]
    return byte_tokenizer().decode(batch.token_T[start : end - 1].tolist())


@pytest.mark.parametrize("task", TASKS)
def test_a_batch_has_every_label(task):
    batch = questions(task, "test", 3, range(4))
    assert len(batch.bounds_S1) == 5 and batch.bounds_S1[1] == 3 + NUM_UNSTEPPED
    for sequence, example in enumerate(ALL_TASKS[task].examples("test", difficulty=3, count=4)):
        assert text_of(batch, sequence) == example.prompt + example.answer
        target_N = batch.target_T[slice(*batch.bounds_S1[sequence : sequence + 2])]
        wanted = byte_tokenizer().decode(target_N[:-2].tolist())
        labels = "".join(label for _, label in example.labels)
        assert wanted == example.prompt[1:5] + labels + example.answer
        assert target_N[-1] == IGNORED


def test_training_grows_to_the_longest_and_loops_follow_it():
    torch.manual_seed(0)
    seen = set()
    for number in range(40):
        batch = CHAINS.batch(number)
        steps = batch.bounds_S1[1] - NUM_UNSTEPPED
        [loops] = set(training_depth(batch, 0.0).max_T.tolist())
        is_easy = number % EASY_EVERY == EASY_EVERY - 1
        learned = (batch.target_T != IGNORED).sum() / (len(batch.bounds_S1) - 1)
        assert learned == (5 if is_easy else steps + NUM_UNSTEPPED - 1)
        assert loops == 1 if is_easy else steps <= loops <= steps + 2
        seen.add(steps)
        if number < 3:
            assert steps == 2
    assert seen == set(range(2, 9))


def test_late_in_a_run_some_think_far_longer_and_some_as_long_as_they_need():
    torch.manual_seed(0)
    batch = CHAINS.batch(40)
    length = batch.bounds_S1[1]
    drawn = [training_depth(batch, 0.9).max_T.view(-1, length) for _ in range(100)]
    same = [int(loops_ST[0, 0]) for loops_ST in drawn if len(set(loops_ST.flatten().tolist())) == 1]
    assert max(same) > 24 and length - NUM_UNSTEPPED == min(same)
    own = [loops_ST for loops_ST in drawn if len(set(loops_ST.flatten().tolist())) > 1]
    assert 20 < len(own) < 46
    least_T, most_T = torch.cat(own).amin(0), torch.cat(own).amax(0)
    steps = [0] * 4 + list(range(1, length - 5)) + [0, 0]
    assert least_T.tolist() == [max(step, 1) for step in steps]
    assert most_T.tolist() == [step + 3 if step else 1 for step in steps]


def test_an_answer_counts_when_it_and_its_end_come_right(model):
    batch = questions("cups", "test", 2, range(4))
    out = model(packed_batch(batch))
    said_T = model.head(out.hidden_TD).argmax(-1)
    right = batch._replace(target_T=said_T.clone())
    assert answered(model, right, out).share == 1
    for place in (-3, -2):  # of the first question: what "=" and the answer predict
        right.target_T[batch.bounds_S1[1] + place] += 1
        assert answered(model, right, out).share == 0.75
        right.target_T[batch.bounds_S1[1] + place] -= 1
    right.target_T[batch.bounds_S1[1] - 4] += 1  # a label on the way
    assert answered(model, right, out).share == 1


def test_random_loops_are_the_same_ones_elsewhere():
    loops_T = torch.tensor([1] * 20 + [7] * 20)
    depth = same_loops_elsewhere(loops_T, seed=0)
    assert depth.max_T.sort().values.tolist() == loops_T.tolist()
    assert depth.max_T.tolist() != loops_T.tolist() and not depth.auto_T.any()


def test_the_ways_to_choose_who_thinks_cost_what_is_said(model):
    with torch.no_grad():
        model.think.read.bias.copy_(torch.tensor([100.0, -100.0]))  # all is hard, nothing settles
    found = selection(model, "cups", num_asked=14)
    assert {way: each["loops"] for way, each in found.items()} == {
        "selective": TRAINED_LOOPS,
        "random": TRAINED_LOOPS,
        "always": TRAINED_LOOPS,
        "one loop": 1,
    }
    assert found["selective"] == found["always"] == found["random"]
    assert found["one loop"]["flops"] < found["always"]["flops"] / 3
    with torch.no_grad():
        model.think.read.bias.copy_(torch.tensor([-100.0, 100.0]))
    assert selection(model, "cups", num_asked=14)["selective"]["loops"] == 1


def test_the_deeper_network_does_the_same_work():
    batch = questions("cups", "test", TRAINED_LOOPS, range(20))
    flops = {}
    for config in (LOOPED, DEEPER):
        loops = TRAINED_LOOPS if config.think else 1
        [found] = by_loops(first_network(config, None, seed=0), batch, loops=[loops]).values()
        flops[config.num_layers] = found["flops"]
    assert flops[DEEPER.num_layers] == pytest.approx(flops[LOOPED.num_layers], rel=0.07)
    assert 1_000_000 <= total_params(LOOPED) < total_params(DEEPER)


def test_every_arm_runs_and_the_tables_take_what_it_finds(tmp_path):
    assert set(EXPERIMENT.arms) == {f"{task}-{way}" for task in TASKS for way in NETWORKS}
    found = {}
    for arm in EXPERIMENT.arms:
        task, way = arm.split("-", 1)
        figures = trial(task, way, TINY, 0, tmp_path / arm)
        figures["seconds"] = 1.0
        assert set(figures["by_loops"]["8"]) == {
            str(n) for n in (LOOPS if way == "looped" else [1])
        }
        found[arm] = {0: figures, 1: figures}
    assert all(as_markdown(table) for table in tables(found))


def test_training_depends_on_the_seed_alone():
    first, again, other = (
        CHAINS.batch(7).token_T,
        CHAINS.batch(7).token_T,
        replace(CHAINS, seed=4).batch(7).token_T,
    )
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.skipif(
    not Path("docs/experiments/depth.json").exists(), reason="the experiment was not run yet"
)
def test_the_page_shows_its_figures():
    page = Path("docs/experiments/depth.md").read_text(encoding="utf-8")
    assert figures_block(EXPERIMENT, read_page(EXPERIMENT)) in page

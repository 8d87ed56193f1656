"""The experiment on distillation in small: every arm, what it measures, and its page."""

from dataclasses import replace

import pytest
import torch

from heddle.tasks.table import TASKS
from heddle.tasks.task import split_of
from heddle.text.tokenizer import Tokenizer
from heddle.train.data.document import IGNORED
from heddle.train.data.pack import pack_whole
from heddle.train.data.shards import Shards
from heddle.train.data.vocabulary import BYTES_ONLY, END_TOKEN, train_tokenizer
from heddle.train.forward import exact_depth, packed_batch
from heddle.train.initial import first_network
from heddle.weights.checkpoint import open_checkpoint
from recipes.experiments import flash
from recipes.experiments.experiment import DOCS, Found, figures_block, read_page
from recipes.experiments.flash import EXPERIMENT, FORMS, TERMS, Form
from recipes.experiments.flash_answers import ASKED, answer, exam, fewest_loops
from recipes.experiments.flash_tables import SAID, above_chance, chosen, flops, shares
from recipes.experiments.flash_teacher import MOST_LOOPS, Lessons, Steps, teacher_model, written

TINY = Form(
    teacher_steps=Steps(learning=2, deciding=2),
    text_tokens=2500,
    texts_per_round=60,
    student_steps=2,
    num_examples=4,
)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(train_tokenizer([]))


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("flash")


@pytest.fixture(scope="module")
def found(home) -> Found:
    """Hold what every arm finds in one small home, whose teacher all share."""
    narrow = replace(teacher_model(), width=32, head_width=8, ffn_width=32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(FORMS, False, TINY)
        patch.setattr(flash, "teacher_model", lambda: narrow)
        return {
            name: {0: trial(0, False, home / f"{name}-0")}
            for name, trial in EXPERIMENT.arms.items()
        }


def test_every_arm_is_measured(found):
    assert set(found) == set(SAID)
    for arm, seeds in found.items():
        figures = seeds[0]
        most = MOST_LOOPS
        for task in figures["tasks"].values():
            assert len(task["by_loops"]) == most and 1 <= task["loops"] <= most
            work = [each["flops"] for each in task["by_loops"]]
            assert work == sorted(work) and work[0] < work[-1]
            assert [each["loops"] for each in task["by_loops"]] == list(range(1, most + 1))
            assert 1 <= task["auto"]["loops"] <= most
        assert ("text" in figures) == (arm != "teacher")
    params = {arm: seeds[0]["params"] for arm, seeds in found.items()}
    assert len({count for arm, count in params.items() if arm != "teacher"}) == 1
    assert params["all-terms"] < 0.6 * params["teacher"]


def test_each_term_makes_another_student_of_the_same_start(found, home):
    weights = {
        arm: open_checkpoint(home / f"{arm}-0").load("embed.weight", torch.float32)
        for arm in [*TERMS, "hard-labels"]
    }
    for arm, weight in weights.items():
        others = [other for name, other in weights.items() if name != arm]
        assert not any(torch.equal(weight, other) for other in others), arm


def test_the_student_reads_what_the_teacher_wrote_from_nothing(found, home, tokenizer):
    [folder] = (home / "teacher-0" / "student").glob("text-*")
    train = Shards(folder / "train")
    documents = [train.read(index) for index in range(train.num_documents)]
    assert {int(document.token_N[0]) for document in documents} == {
        tokenizer.control_tokens[END_TOKEN]
    }
    assert {document.cluster for document in documents} == {-1}


def test_lessons_are_of_the_training_split_and_of_each_kind(tokenizer):
    stream = Lessons(microbatch_tokens=400).batches(tokenizer)(None, rank=0, num_ranks=1)
    begin_id, kinds = tokenizer.control_tokens[END_TOKEN], set()
    for _ in range(8):
        batch, _ = next(stream)
        for low, high in zip(batch.bounds_S1, batch.bounds_S1[1:], strict=False):
            prompt, _, answer = tokenizer.decode(batch.token_T[low:high].tolist()).rpartition("=")
            is_written = int(batch.token_T[low]) == begin_id
            num_learned = int((batch.target_T[low:high] != IGNORED).sum())
            if prompt.startswith("cup"):
                assert split_of("cups", f"{prompt}=") == "train"
            name = prompt[:3] if is_written else "dense"
            if not is_written:
                assert prompt.startswith("cup") and num_learned == len(prompt) - len("cup3") + 2
            kinds.add((name, num_learned == high - low - 1))
            assert num_learned in (high - low - 1, len(answer) + 1) or not is_written
    written_kinds = {
        (name, is_whole) for name in ("cup", "cop", "rec") for is_whole in (True, False)
    }
    assert kinds - {("dense", False)} <= written_kinds and len(kinds) >= 6


@pytest.mark.parametrize("name", ASKED)
def test_an_exam_is_held_out_and_scores_answers_alone(name, tokenizer):
    given = exam(name, "test", tokenizer, num_examples=6)
    batch = given.batch
    for low, high in zip(batch.bounds_S1, batch.bounds_S1[1:], strict=False):
        scored = batch.target_T[low:high] != IGNORED
        first = int(scored.nonzero()[0])
        question = tokenizer.decode(batch.token_T[low + 1 : low + 1 + first].tolist())
        assert question.endswith("=") and scored[first:-1].all()
        assert batch.target_T[high - 2] == tokenizer.control_tokens[END_TOKEN]
    chances = {"cups": (0.2, 0.2), "copy": (0, 0), "key_value_recall": (1 / 3, 0.5)}
    low, high = chances[name]
    assert low - 1e-9 <= given.chance <= high + 1e-9


def test_a_wrong_end_makes_an_answer_wrong(tokenizer):
    """The network's own greedy answers are right, and wrong once a target differs."""
    model = first_network(teacher_model(), None, seed=0).eval()
    example = TASKS["copy"].example("test", 0, difficulty=3)
    document = written(example, tokenizer, cluster=0, is_whole=False)
    batch = pack_whole([document, document])
    with torch.no_grad():
        out = model(packed_batch(batch, exact_depth(2, len(batch.token_T))))
        greedy_T = model.head(out.hidden_TD).argmax(-1)
    asked = batch.target_T != IGNORED
    own = batch._replace(target_T=torch.where(asked, greedy_T, IGNORED))
    assert answer(model, own, loops=2).accuracy == 1
    own.target_T[asked.nonzero()[-1]] = (own.target_T[asked.nonzero()[-1]] + 1) % BYTES_ONLY
    assert answer(model, own, loops=2).accuracy == 0.5
    assert fewest_loops(model, own) == 1 or answer(model, own, loops=1).accuracy < 0.5


def trial(accuracy: float, *, auto: float, work: float) -> dict:
    task = {
        "chance": 0.2,
        "loops": 2,
        "by_loops": [
            {"accuracy": 0.2, "flops": work / 2, "loops": 1},
            {"accuracy": accuracy, "flops": work, "loops": 2},
        ],
        "auto": {"accuracy": auto, "flops": work, "loops": 1.5},
    }
    return {"params": 10, "tasks": dict.fromkeys(ASKED, task)}


def test_what_is_kept_counts_from_chance_and_never_below():
    found = {
        "teacher": {0: trial(1.0, auto=0.6, work=4.0)},
        "all-terms": {0: trial(0.6, auto=0.6, work=1.0)},
        "cut": {0: trial(0.1, auto=0.1, work=1.0)},
    }
    assert shares(found, "all-terms", above_chance) == pytest.approx([0.5])
    assert shares(found, "all-terms", above_chance, chosen) == pytest.approx([1.0])
    assert shares(found, "all-terms", flops) == pytest.approx([0.25])
    assert shares(found, "cut", above_chance) == [0.0]


@pytest.mark.skipif(not (DOCS / "flash.json").exists(), reason="the experiment has not been run")
def test_the_page_has_the_figures():
    found = read_page(EXPERIMENT)
    assert set(found) == set(SAID) and all(set(seeds) == {0, 1, 2} for seeds in found.values())
    assert figures_block(EXPERIMENT, found) in (DOCS / "flash.md").read_text(encoding="utf-8")

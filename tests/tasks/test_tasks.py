"""Every task of the table: right answers score 1, splits never meet, numbers alone decide."""

import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heddle.errors import ConfigError, DataError
from heddle.model.config import CLUSTERS
from heddle.tasks.table import TASKS, find
from heddle.tasks.task import Example, Split, Task, held_out, same_answer

SPLITS = get_args(Split)
DOCS = Path(__file__).parents[2] / "docs" / "data.md"


def some_level(task: Task) -> int:
    return task.difficulties[min(len(task.difficulties) - 1, 5)]


@pytest.fixture(params=TASKS.values(), ids=TASKS)
def task(request) -> Task:
    return request.param


def test_the_answer_scores_1_and_others_less(task: Task):
    for level in (task.difficulties[0], some_level(task)):
        for example in task.examples("train", seed=3, difficulty=level, count=20):
            assert task.score(example, example.answer) == 1
            assert task.score(example, f"I think\nthe answer is {example.answer}.") == 1
            assert task.score(example, f"{example.answer}1") < 1
            assert task.score(example, "") < 1
            assert example.difficulty == level


def test_no_instance_is_in_two_splits_whatever_seed_or_difficulty(task: Task):
    seen = {split: set[str]() for split in SPLITS}
    for split in SPLITS:
        for seed in range(3):
            for level in {task.difficulties[0], task.difficulties[1], some_level(task)}:
                for example in task.examples(split, seed=seed, difficulty=level, count=60):
                    seen[split].add(example.identity or example.prompt)
    assert not seen["train"] & seen["validation"]
    assert not seen["train"] & seen["test"]
    assert not seen["validation"] & seen["test"]


def test_examples_differ(task: Task):
    prompts = [e.prompt for e in task.examples("train", difficulty=some_level(task), count=50)]
    assert len(set(prompts)) > 40


def test_an_example_depends_on_its_number_alone(task: Task):
    level = some_level(task)
    all_of_them = list(task.examples("test", seed=5, difficulty=level, count=4))
    assert task.example("test", 3, seed=5, difficulty=level) == all_of_them[3]
    assert task.example("test", 3, seed=6, difficulty=level) != all_of_them[3]


def test_another_process_makes_the_same_examples():
    code = (
        "from heddle.tasks.table import TASKS\n"
        "import hashlib\n"
        "text = ''.join(repr(e) for t in TASKS.values() for e in t.examples('test', count=5))\n"
        "print(hashlib.sha256(text.encode()).hexdigest())"
    )
    command = [sys.executable, "-c", code]
    printed = {
        subprocess.run(
            command, env={"PYTHONHASHSEED": seed}, check=True, capture_output=True, text=True,
            cwd=DOCS.parents[1],
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(printed) == 1


def test_labels_stand_on_characters_of_the_prompt(task: Task):
    for example in task.examples("train", difficulty=some_level(task), count=5):
        offsets = [offset for offset, _ in example.labels]
        assert offsets == sorted(set(offsets))
        assert all(0 <= offset < len(example.prompt) for offset in offsets)
        assert all(len(label) == 1 and label.isascii() for _, label in example.labels)


def test_rows_are_named_and_labelled(task: Task):
    assert TASKS[task.name] is task
    assert task.cluster in CLUSTERS


def test_every_task_is_documented(task: Task):
    assert f"| `{task.name}` | {task.needs} |" in DOCS.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"difficulty": 10**9}, "must be from 1 to 64, not 1000000000"),
        ({"split": "train "}, "split must be train, validation or test"),
        ({"index": -1}, "no train example number -1"),
    ],
)
def test_what_a_task_does_not_have_is_refused(arguments, words):
    with pytest.raises(ConfigError, match=words):
        TASKS["p_hop"].example(**({"split": "train", "index": 0} | arguments))


def test_an_endless_task_needs_a_count():
    with pytest.raises(ConfigError, match="count"):
        next(TASKS["copy"].examples("test"))


def test_a_task_with_too_few_instances_says_so():
    source = held_out("coin", lambda rng, _: Example(prompt=rng.choice("ht"), answer="?"))
    with pytest.raises(DataError, match="coin found no (validation|test) example"):
        for split in SPLITS:
            source(split, 0, 1, 0)


def test_unknown_tasks_name_the_nearest():
    with pytest.raises(ConfigError, match="did you mean modular_chain"):
        find("modular_chains")
    assert find("reverse") is TASKS["reverse"]


@pytest.mark.parametrize(
    ("answer", "reply", "score"),
    [
        ("405", "405", 1),
        ("405", " 405.\n", 1),
        ("405", "347+58=405", 1),
        ("405", "First 400.\nAnswer: **405**", 1),
        ("405", "The passkey is 405.", 1),
        ("405", "405 is the passkey.", 0),
        ("405", "1,405", 0),
        ("1405", "1,405", 1),
        ("2", "2.0", 1),
        ("405", "405 or 406", 0),
        ("405", "the answer is 405 = 406", 0),
        ("palms", "Palms", 1),
        ("a\nb", "a b", 1),
    ],
)
def test_replies_are_read_as_a_person_would(answer, reply, score):
    assert same_answer(Example(prompt="", answer=answer), reply) == score


@given(st.text())
def test_no_reply_breaks_the_grade(reply):
    assert same_answer(Example(prompt="", answer="7"), reply) in (0, 1)

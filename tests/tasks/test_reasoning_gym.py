"""The tasks of reasoning-gym, when it is installed."""

import inspect
import random
import re

import pytest

from heddle.errors import ConfigError
from heddle.tasks import reasoning_gym
from heddle.tasks.table import find

pytest.importorskip("reasoning_gym", reason="the extra `tasks` is not installed")
SAMPLE = ["leg_counting", "simple_equations", "maze", "spell_backward", "syllogism"]


def test_about_a_hundred_tasks_are_on_offer():
    assert len(reasoning_gym.names()) >= 90
    assert set(SAMPLE) <= set(reasoning_gym.names())


@pytest.mark.parametrize("name", SAMPLE)
def test_answers_score_1_and_splits_do_not_meet(name):
    task = find(f"reasoning_gym:{name}")
    prompts = {}
    for split in ("train", "test"):
        examples = list(task.examples(split, seed=1, count=8))
        assert all(task.score(example, example.answer) == 1 for example in examples)
        assert all(task.score(example, "no idea") < 1 for example in examples)
        prompts[split] = {example.prompt for example in examples}
    assert not prompts["train"] & prompts["test"]
    assert task.example("test", 5, seed=2).prompt == task.example("test", 5, seed=2).prompt


@pytest.mark.slow
@pytest.mark.parametrize("number", range(20))
def test_every_task_grades_its_own_answer(number):
    for name in reasoning_gym.names()[number::20]:
        task = reasoning_gym.find(name)
        example = task.example("train", random.Random(number).randrange(1000))
        assert task.score(example, example.answer) == 1, name


def test_no_reply_is_run_as_code(tmp_path):
    mark = tmp_path / "mark"
    for name in sorted(reasoning_gym._REPLY_IS_RUN):
        task = reasoning_gym.find(name)
        example = task.example("test", 0)
        for reply in (f"open({str(mark)!r}, 'w')", "9**9**9**9"):
            assert task.score(example, reply) == 0
        assert task.score(example, example.answer) == 1
    assert not mark.exists()


def test_every_scorer_that_runs_replies_is_known():
    from reasoning_gym import factory

    calls = re.compile(r"\b(?:eval|exec|parse_expr|sympify)\((?!entry)")
    running = {
        name
        for name in reasoning_gym.names()
        if calls.search(inspect.getsource(factory.DATASETS[name][0].score_answer))
    }
    assert running == reasoning_gym._REPLY_IS_RUN


@pytest.mark.parametrize(
    ("name", "reply"), [("prime_factorization", "two and three"), ("game_of_life", '{"a": 1}')]
)
def test_a_reply_that_the_scorer_cannot_read_is_wrong(name: str, reply: str):
    task = reasoning_gym.find(name)
    assert task.score(task.example("test", 0), reply) == 0


def test_unknown_names_are_refused():
    with pytest.raises(ConfigError, match="did you mean leg_counting"):
        find("reasoning_gym:leg_count")
    with pytest.raises(ConfigError, match="no usable task 'word_ladder'"):
        find("reasoning_gym:word_ladder")

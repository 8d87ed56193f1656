"""The tasks of reasoning-gym, when it is installed."""

import random

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


def test_unknown_names_are_refused():
    with pytest.raises(ConfigError, match="did you mean leg_counting"):
        find("reasoning_gym:leg_count")
    with pytest.raises(ConfigError, match="no usable task 'word_ladder'"):
        find("reasoning_gym:word_ladder")

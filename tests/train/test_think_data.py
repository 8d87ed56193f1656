"""The chats that teach thinking: several questions each, right answers, nothing held out."""

import re
from operator import add, mul, sub

from heddle.tasks.table import find
from recipes.data.think_data import CHAIN_STEPS, CHAINS, SUM_LEVELS, SUMS, quizzes

OPERATORS = {"+": add, "-": sub, "*": mul}


def turns(chats):
    """Return all questions with their answers, after a look at who says what."""
    for messages in chats:
        assert 6 <= len(messages) // 2 <= 10
        roles = [message["role"] for message in messages]
        assert roles == ["user", "assistant"] * (len(messages) // 2)
        said = [message["content"] for message in messages]
        yield from zip(said[::2], said[1::2], strict=True)


def test_sums_are_right_and_of_every_size():
    digits = set()
    for question, answer in turns(quizzes([find(name) for name in SUMS], SUM_LEVELS, 60, seed=1)):
        first, sign, second = re.search(r"(\d+)([+*-])(\d+)=$", question).groups()
        assert int(answer) == OPERATORS[sign](int(first), int(second))
        digits.add(max(len(first), len(second)))
    assert digits == set(SUM_LEVELS)


def test_no_test_question_is_asked():
    tasks = [find(name) for name in CHAINS]
    held_out = {
        task.asked(task.example("test", index, seed=2, difficulty=level))
        for task in tasks
        for level in CHAIN_STEPS
        if level in task.difficulties
        for index in range(50)
    }
    asked = {question for question, _ in turns(quizzes(tasks, CHAIN_STEPS, 60, seed=2))}
    assert asked and not asked & held_out


def test_a_seed_writes_the_same_chats():
    tasks = [find(name) for name in SUMS]
    first, again, other = (list(quizzes(tasks, SUM_LEVELS, 3, seed=seed)) for seed in (1, 1, 5))
    assert first == again != other

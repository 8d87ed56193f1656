import re
from itertools import islice
from pathlib import Path

import pytest

from heddle.errors import ConfigError
from heddle.tasks import table
from heddle.tasks.evaluation import Answer, Generation
from heddle.tasks.sets import SETS, find_set
from heddle.tasks.task import split_of

DOCUMENT = Path(__file__).parent.parent.parent / "docs" / "eval.md"
GENERATED = [each for each in SETS.values() if not each.files]


def documented() -> dict[str, list[str]]:
    """Return the cells of the first row of each set in the document."""
    rows = re.findall(r"^\| `([^`]+)` \|(.*)\|$", DOCUMENT.read_text(encoding="utf-8"), re.M)
    return {name: [cell.strip() for cell in cells.split("|")] for name, cells in rows[::-1]}


@pytest.mark.parametrize("name", SETS)
def test_every_set_is_documented(name: str):
    cells = documented()[name]
    assert f"`{SETS[name].metric}`" in cells
    assert all(f"`{file}`" in " ".join(cells) for file in SETS[name].files)


@pytest.mark.parametrize("name", table.TASKS)
def test_every_task_can_be_asked(name: str):
    level = table.TASKS[name].difficulties[3]
    [asked] = find_set(f"{name}@{level}").questions(None, limit=1)
    assert asked.group == str(level)


@pytest.mark.parametrize("eval_set", GENERATED, ids=lambda each: each.name)
def test_generated_sets_ask_different_test_instances(eval_set):
    """Training never sees these: a task's training source draws from the split "train" only."""
    task = table.TASKS[eval_set.name]
    prompts = set()
    for asked in eval_set.questions(None):
        name, level, index = asked.id.rsplit("-", 2)
        example = task.example("test", int(index), difficulty=int(level))
        assert split_of(name, example.identity or example.prompt) == "test"
        question = asked.question
        assert isinstance(question, Generation)
        content = question.prompt[0]["content"]
        assert content == task.asked(example)
        assert len(question.prompt) == 1
        assert question.grade(Answer(example.answer)) == {"accuracy": 1.0}
        assert question.grade(Answer("?")) == {"accuracy": 0.0}
        assert asked.group == level
        prompts.add(content)
    assert len(prompts) == 500


def test_questions_are_the_same_in_every_run():
    first, second = (
        [(asked.id, asked.question.prompt) for asked in SETS["p_hop"].questions(None, limit=20)]
        for _ in range(2)
    )
    assert first == second


def test_levels_take_turns():
    groups = [asked.group for asked in SETS["addition"].questions(None, limit=8)]
    assert groups == ["2", "3", "4", "6"] * 2


def test_one_level_of_a_task():
    asked = list(find_set("addition@5").questions(None, limit=3))
    assert {each.group for each in asked} == {"5"}
    assert asked[0].id == "addition@5-5-0"


def test_a_bare_prompt_is_the_tasks_own():
    [asked] = find_set("bare:addition@3").questions(None, limit=1)
    assert isinstance(asked.question, Generation)
    example = table.TASKS["addition"].example("test", 0, difficulty=3)
    assert asked.question.prompt == example.prompt
    assert asked.question.stop == ("\n",)


def test_a_level_with_few_instances_ends():
    asked = list(find_set("addition@1").questions(None))
    assert 0 < len(asked) < 100
    assert len({each.question.prompt[0]["content"] for each in asked}) == len(asked)


def test_a_puzzle_of_the_package():
    [asked] = find_set("reasoning_gym:leg_counting").questions(None, limit=1)
    assert isinstance(asked.question, Generation)
    assert asked.question.prompt[0]["content"].startswith("Answer with the result alone.\n\n")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("adition", "did you mean addition"),
        ("nothing-like-it", "there are"),
        ("addition@99", "a level of addition is a number from 1 to 32"),
        ("addition@much", "a level of addition is a number"),
        ("bare:arc_easy", "no set is called"),
        ("questions.jsonl", "no set is called"),
    ],
)
def test_unknown_sets_are_named(name: str, message: str):
    with pytest.raises(ConfigError, match=message):
        find_set(name)


def test_a_data_folder_is_read_as_it_is_asked_for(tmp_path):
    """A set of a million rows takes no memory for them."""
    rows = "".join(f'{{"id": "{n}", "prompt": "a", "answer": "b"}}\n' for n in range(3))
    (tmp_path / "lambada.jsonl").write_text(rows + "broken\n", encoding="utf-8")
    first = list(islice(SETS["lambada"].questions(tmp_path), 3))
    assert [asked.id for asked in first] == ["0", "1", "2"]

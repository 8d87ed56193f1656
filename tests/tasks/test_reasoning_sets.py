import pytest

from heddle.errors import DataError
from heddle.tasks.evaluation import Answer, Generation
from tests.tasks.data_files import asked, write_rows

SHOT = {"prompt": "Two and two?", "reasoning_calc": "2+2=<<2+2=4>>4", "answer": "4"}
PROBLEM = {"prompt": "Half of 2,500 plus one?", "answer": "1251"}


def only(folder, name: str, row) -> Generation:
    [one] = asked(folder, name, row)
    assert isinstance(one.question, Generation)
    return one.question


def test_gsm8k_goes_on_after_five_worked_problems(tmp_path):
    write_rows(tmp_path, "gsm8k_train.jsonl", [SHOT] * 7)
    question = only(tmp_path, "gsm8k", PROBLEM)
    worked = "Question: Two and two?\nAnswer: 2+2=<<2+2=4>>4\n#### 4\n\n"
    assert question.prompt == worked * 5 + "Question: Half of 2,500 plus one?\nAnswer:"
    assert question.stop == ("Question:",)


@pytest.mark.parametrize(
    ("text", "stated", "last"),
    [
        ("1250 and 1 are 1251\n#### 1251", 1, 1),
        ("#### 1,251.", 1, 1),
        ("#### 1251.00 in all", 1, 1),
        ("#### 12", 0, 0),
        ("#### 1251\n\nThen #### 7", 1, 0),
        ("It is $1,251.", 0, 1),
        ("-1251", 0, 0),
        ("no idea", 0, 0),
        ("#### .,", 0, 0),
    ],
)
def test_numbers_are_compared_by_value(tmp_path, text: str, stated: float, last: float):
    scores = only(tmp_path, "gsm8k_chat", PROBLEM).grade(Answer(text))
    assert scores == {"accuracy": stated, "accuracy_last_number": last}


def test_an_answer_that_is_no_number_is_an_error(tmp_path):
    with pytest.raises(DataError, match="row 1: the answer 'many' is no number"):
        asked(tmp_path, "gsm8k_chat", {"prompt": "How many?", "answer": "many"})


PUZZLE = {
    "prompt": "How many legs have 2 dogs and 1 hen?\n",
    "answer": "10",
    "meta": {"task": "leg_counting", "rg_metadata": {"animals": {"dog": 2, "hen": 1}}},
}


def test_puzzles_are_scored_by_the_package(tmp_path):
    [one] = asked(tmp_path, "reasoning_gym", PUZZLE)
    assert one.group == "leg_counting"
    assert isinstance(one.question, Generation)
    assert one.question.prompt[0]["content"] == (
        "Answer with the result alone.\n\nHow many legs have 2 dogs and 1 hen?"
    )
    assert one.question.grade(Answer("10")) == {"accuracy": 1.0}
    partly = one.question.grade(Answer("10 legs"))["accuracy"]
    assert 0 <= partly < 1
    assert one.question.grade(Answer("11"))["accuracy"] == 0.0


def test_without_its_metadata_a_puzzle_has_one_answer(tmp_path):
    question = only(tmp_path, "reasoning_gym", {**PUZZLE, "meta": {"task": "n_queens"}})
    assert question.grade(Answer(" 10\n"))["accuracy"] == 1.0
    assert question.grade(Answer("11"))["accuracy"] == 0.0

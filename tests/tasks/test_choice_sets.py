"""Prompts are compared with lm-evaluation-harness's, written out."""

from heddle.tasks.evaluation import Choices
from heddle.tasks.sets import SETS
from tests.tasks.data_files import asked, write_rows

MOON = {
    "prompt": "What circles the earth?",
    "choices": ["the moon", "the sun"],
    "answer": "the moon",
}


def only(folder, name: str, row) -> Choices:
    [one] = asked(folder, name, row)
    assert isinstance(one.question, Choices)
    return one.question


def test_questions_with_an_answer_after_them(tmp_path):
    context = "Question: What circles the earth?\nAnswer:"
    for name in ("arc_easy", "arc_challenge", "piqa"):
        question = only(tmp_path, name, MOON)
        assert question.pairs == ((context, " the moon"), (context, " the sun"))
        assert question.gold == 0


def test_sentences_that_a_choice_completes(tmp_path):
    row = {"prompt": "The glass fell, therefore", "choices": ["it sang.", "it broke."]}
    for name in ("openbookqa", "copa"):
        question = only(tmp_path, name, {**row, "answer": "it broke."})
        assert question.pairs[1] == ("The glass fell, therefore", " it broke.")
        assert question.gold == 1


def test_boolq_has_a_passage_and_a_question(tmp_path):
    row = {"prompt": "Passage: Salt is white.\nQuestion: is salt white?", "choices": ["no", "yes"]}
    question = only(tmp_path, "boolq", {**row, "answer": "yes"})
    context = "Salt is white.\nQuestion: is salt white?\nAnswer:"
    assert question == Choices(((context, " no"), (context, " yes")), 1)


def test_winogrande_compares_beginnings(tmp_path):
    row = {
        "prompt": "Which beginning fits?",
        "choices": ["Ann thanked Eve because Ann", "Ann thanked Eve because Eve"],
        "answer": "Ann thanked Eve because Eve",
        "meta": {"continuation": "had helped."},
    }
    question = only(tmp_path, "winogrande", row)
    assert question.pairs[1] == ("Ann thanked Eve because Eve", " had helped.")
    assert question.gold == 1


def mmlu_row(prompt: str, answer: str, subject: str = "high_school_geography"):
    return {
        "prompt": prompt,
        "choices": ["north", "east", "south", "west"],
        "answer": answer,
        "meta": {"subject": subject},
    }


LISTED = "A. north\nB. east\nC. south\nD. west\nAnswer:"
HEADER = "The following are multiple choice questions (with answers) about high school geography."


def test_mmlu_asks_for_a_letter(tmp_path):
    [one] = asked(tmp_path, "mmlu", mmlu_row(" Where is cold? ", "south"))
    context = f"{HEADER}\n\nWhere is cold?\n{LISTED}"
    letters = tuple((context, f" {letter}") for letter in "ABCD")
    assert one.question == Choices(letters, 2)
    assert one.group == "high_school_geography"


def test_mmlu_shows_worked_questions_of_the_subject(tmp_path):
    shots = [
        mmlu_row("Where does the sun rise?", "east"),
        mmlu_row("Not this one?", "east", subject="anatomy"),
        mmlu_row("Where does it set?", "west"),
    ]
    write_rows(tmp_path, SETS["mmlu_5shot"].files[1], shots)
    [one] = asked(tmp_path, "mmlu_5shot", mmlu_row("Where is cold?", "south"))
    assert isinstance(one.question, Choices)
    assert one.question.pairs[0][0] == (
        f"{HEADER}\n\nWhere does the sun rise?\n{LISTED} B\n\n"
        f"Where does it set?\n{LISTED} D\n\nWhere is cold?\n{LISTED}"
    )

import gzip

import pytest

from heddle.errors import ConfigError, DataError
from heddle.tasks.evaluation import Choices
from heddle.tasks.sets import SETS
from tests.tasks.data_files import asked, write_rows

ROW = {"prompt": "Is ice cold?", "choices": ["yes", "no"], "answer": "yes"}


def test_choices_are_scored_as_a_whole_and_by_length():
    choices = Choices((("q", " four"), ("q", " a longer one")), 1)
    assert choices.scores([-4.0, -6.0]) == {"accuracy": 0.0, "accuracy_by_length": 1.0}
    assert choices.scores([-4.0, -3.0]) == {"accuracy": 1.0, "accuracy_by_length": 1.0}
    assert choices.scores([-4.0, -40.0]) == {"accuracy": 0.0, "accuracy_by_length": 0.0}


def test_the_first_of_equals_is_taken():
    assert Choices((("q", " a"), ("q", " b")), 0).scores([-1.0, -1.0])["accuracy"] == 1.0
    assert Choices((("q", " a"), ("q", " b")), 1).scores([-1.0, -1.0])["accuracy"] == 0.0


def test_length_is_of_characters_not_bytes():
    choices = Choices((("q", " éé"), ("q", " abc")), 1)
    assert choices.scores([-2.1, -3.0])["accuracy_by_length"] == 1.0


def test_a_set_with_files_needs_a_folder():
    with pytest.raises(ConfigError, match="arc_easy needs arc_easy.jsonl.*--data"):
        SETS["arc_easy"].questions(None)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match="holds no arc_easy.jsonl"):
        next(SETS["arc_easy"].questions(tmp_path))


def test_a_file_is_found_below_and_packed(tmp_path):
    path = write_rows(tmp_path, "dev/arc_easy.jsonl", [{"id": "1", **ROW}])
    with gzip.open(f"{path}.gz", "wb") as packed:
        packed.write(path.read_bytes())
    with pytest.raises(DataError, match="twice"):
        next(SETS["arc_easy"].questions(tmp_path))
    path.unlink()
    assert next(SETS["arc_easy"].questions(tmp_path)).id == "1"


def test_a_limit_takes_the_first(tmp_path):
    everything = asked(tmp_path, "arc_easy", ROW, ROW, ROW)
    assert list(SETS["arc_easy"].questions(tmp_path, limit=2)) == everything[:2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"choices": None}, "NoneType"),
        ({"answer": "maybe"}, "maybe"),
        ({"meta": {"gold": 1}}, "meta.gold"),
        ({"meta": {"gold": 7}}, "out of range"),
    ],
)
def test_a_wrong_row_is_named(tmp_path, change, message: str):
    with pytest.raises(DataError, match=f"row 2: .*{message}"):
        asked(tmp_path, "arc_easy", ROW, {**ROW, **change})


def test_a_missing_field_is_named(tmp_path):
    with pytest.raises(DataError, match="row 1: 'choices' is missing"):
        asked(tmp_path, "arc_easy", {"prompt": "?", "answer": "a"})

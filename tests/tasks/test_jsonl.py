import gzip
import json
import lzma

import pytest
import zstandard

from heddle.errors import DataError
from heddle.tasks.rows import read_rows
from heddle.tasks.table import find

ROWS = [{"prompt": f"Question {number}?", "answer": str(number)} for number in range(100)]
TEXT = "\n".join(json.dumps(row) for row in ROWS) + "\n"
PACK = {
    "": bytes,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.ZstdCompressor().compress,
}


@pytest.mark.parametrize("ending", PACK)
def test_rows_are_read_packed_or_not(tmp_path, ending):
    path = tmp_path / f"rows.jsonl{ending}"
    path.write_bytes(PACK[ending](TEXT.encode()))
    assert list(read_rows(path)) == ROWS


@pytest.mark.parametrize("ending", [".gz", ".xz", ".zst"])
def test_a_packed_file_without_its_end_is_noticed(tmp_path, ending):
    path = tmp_path / f"rows.jsonl{ending}"
    path.write_bytes(PACK[ending](TEXT.encode())[:-9])
    with pytest.raises(DataError, match=f"cannot read .*rows.jsonl{ending}"):
        list(read_rows(path))


@pytest.mark.parametrize("ending", PACK)
def test_a_packed_file_of_noise_is_refused(tmp_path, ending):
    path = tmp_path / f"rows.jsonl{ending}"
    path.write_bytes(b"\xff\xfe" * 200)
    with pytest.raises(DataError, match="rows.jsonl"):
        list(read_rows(path))


def test_zstandard_frames_may_follow_each_other(tmp_path):
    path = tmp_path / "rows.jsonl.zst"
    path.write_bytes(PACK[".zst"](TEXT.encode()) * 2)
    assert list(read_rows(path)) == ROWS * 2


def test_a_file_is_a_task_whose_rows_all_come_once(tmp_path):
    path = tmp_path / "capitals.jsonl"
    path.write_text(TEXT, encoding="utf-8")
    task = find(str(path))
    examples = [e for split in ("train", "validation", "test") for e in task.examples(split)]
    assert sorted(e.prompt for e in examples) == sorted(row["prompt"] for row in ROWS)
    assert all(task.score(e, e.answer) == 1 for e in examples)
    assert task.name == "capitals"
    orders = [[e.prompt for e in task.examples("train", seed=seed)] for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]
    assert len(list(task.examples("train", count=10_000))) == task.num_examples["train"]


def task_of(tmp_path, *rows):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    task = find(str(path))
    [example] = [e for split in ("train", "validation", "test") for e in task.examples(split)]
    return task, example


def test_choices_context_reasoning_and_aliases(tmp_path):
    row = {
        "prompt": "Which?",
        "context": "A story.",
        "choices": ["dry palms", "wet palms"],
        "answer": "dry palms",
        "reasoning": "Friction.",
        "aliases": ["the dry ones"],
    }
    task, example = task_of(tmp_path, row)
    assert example.prompt == "A story.\n\nWhich?\nAnswer with one of:\n- dry palms\n- wet palms"
    assert example.reasoning == "Friction."
    assert task.score(example, "The dry ones.") == 1
    assert task.score(example, "wet palms") == 0


def test_messages_end_with_the_answer(tmp_path):
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    _, example = task_of(tmp_path, {"messages": messages})
    assert (example.prompt, example.answer) == ("Hi", "Hello")
    assert example.extra["messages"] == messages[:1]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no rows"),
        ("{}\n", "row 1: prompt is missing"),
        ('{"prompt": "?"}\n', "row 1: answer is missing"),
        ('{"prompt": 3, "answer": 3}\n', "row 1: prompt is missing or not text"),
        ("[1]\n", "line 1: not a JSON object"),
        ('{"prompt": "a", "answer": "b"}\n{"prompt', "line 2: not JSON"),
        ('{"messages": []}\n', "row 1: messages must end with the assistant's text"),
        ('{"messages": [1, 2]}\n', "row 1: messages must be a list of objects"),
    ],
)
def test_rows_that_are_none_are_named(tmp_path, text, words):
    path = tmp_path / "rows.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=words):
        find(str(path))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match="cannot read .*none.jsonl: No such file"):
        find(str(tmp_path / "none.jsonl"))

import json
import lzma
from pathlib import Path

import pytest

from heddle.errors import ConfigError, DataError
from heddle.text.tokenizer import Tokenizer
from heddle.train.data.document import IGNORED
from heddle.train.data.prepare import PrepareConfig, prepare
from heddle.train.data.shards import Shards
from heddle.train.data.vocabulary import BYTES_ONLY, train_tokenizer
from tests.tiny import CHATML, CORPUS, tiny_tokenizer
from tests.train.data.corpus import byte_tokenizer, texts


def write_rows(path: Path, rows) -> Path:
    text = "\n".join(json.dumps(row) for row in rows)
    path.write_bytes(lzma.compress(text.encode()) if path.suffix == ".xz" else text.encode())
    return path


def run(out: Path, *files: Path, tokenizer_json: str | None = None, **settings):
    settings = {"validation_share": 0.0} | settings
    json_text = tokenizer_json or byte_tokenizer().json
    return prepare(list(files), out, tokenizer_json=json_text, config=PrepareConfig(**settings))


def read_back(folder: Path) -> list[str]:
    shards = Shards(folder)
    shards.verify()
    tokenizer = Tokenizer((folder / "tokenizer.json").read_text(encoding="utf-8"))
    return [
        tokenizer.decode(shards.read(number).token_N.tolist(), skip_special=False)
        for number in range(shards.num_documents)
    ]


def test_rows_become_documents_in_their_order(tmp_path):
    rows = [{"text": text, "cluster": "factual", "licence": "CC0-1.0"} for text in texts(300)]
    file = write_rows(tmp_path / "a.jsonl.xz", rows)
    prepared = run(tmp_path / "out", file, source="pages")
    assert read_back(tmp_path / "out" / "train") == [f"{t}<|endoftext|>" for t in texts(300)]
    assert prepared.validation is None
    assert not (tmp_path / "out" / "validation").exists()
    manifest = prepared.train
    assert manifest.sources == {
        "pages": {"licence": "CC0-1.0", "num_documents": 300, "num_tokens": manifest.num_tokens}
    }
    assert manifest.clusters == {"factual": manifest.num_tokens}


def test_processes_side_by_side_write_the_same(tmp_path):
    file = write_rows(tmp_path / "a.jsonl", [{"text": text} for text in texts(300)])
    one = run(tmp_path / "one", file, shard_tokens=3000)
    two = run(tmp_path / "two", file, shard_tokens=3000, num_processes=2)
    assert one == two


def test_a_document_decides_its_own_side(tmp_path):
    rows = [{"text": text} for text in texts(200)]
    first = write_rows(tmp_path / "a.jsonl", rows + rows[:50])
    second = write_rows(tmp_path / "b.jsonl", rows[::-1])
    run(tmp_path / "one", first, validation_share=0.2)
    run(tmp_path / "two", second, validation_share=0.2)
    train, validation = (set(read_back(tmp_path / "one" / s)) for s in ("train", "validation"))
    assert not train & validation
    assert len(train | validation) == 200
    assert 20 <= len(validation) <= 60
    assert set(read_back(tmp_path / "two" / "validation")) == validation


def test_plain_text_is_cut_at_blank_lines(tmp_path):
    text = "".join(f"Paragraph {number}. " + "word " * 50 + "\n\n" for number in range(500))
    file = tmp_path / "book.txt"
    file.write_text(text, encoding="utf-8")
    run(tmp_path / "out", file)
    documents = [t.removesuffix("<|endoftext|>") for t in read_back(tmp_path / "out" / "train")]
    assert "".join(documents) == text
    assert len(documents) == 5
    assert all(document.endswith("\n\n") for document in documents)


def test_control_words_in_text_stay_text(tmp_path):
    file = write_rows(tmp_path / "a.jsonl", [{"text": "a<|endoftext|>b"}])
    run(tmp_path / "out", file)
    tokens = Shards(tmp_path / "out" / "train").read(0).token_N.tolist()
    assert tokens.count(0) == 1
    assert tokens[-1] == 0


CHAT = [
    {"role": "user", "content": "What is 2+2?"},
    {"role": "assistant", "content": "It is 4."},
    {"role": "user", "content": "And 3+3?"},
    {"role": "assistant", "content": "It is 6."},
]


def learned_texts(folder: Path) -> list[list[str]]:
    """Return, for each document, the runs of text that are learned."""
    tokenizer = tiny_chat_tokenizer()
    shards, found = Shards(folder), []
    for number in range(shards.num_documents):
        runs, now = [], []
        for target in [*shards.read(number).target_N.tolist(), IGNORED]:
            if target != IGNORED:
                now.append(target)
            elif now:
                runs.append(tokenizer.decode(now, skip_special=False))
                now = []
        found.append(runs)
    return found


def tiny_chat_tokenizer() -> Tokenizer:
    return Tokenizer(tiny_tokenizer().to_str())


def run_chat(out: Path, file: Path, template: str = CHATML):
    json_text = tiny_chat_tokenizer().json
    return run(out, file, tokenizer_json=json_text, kind="chat", template=template)


def test_only_the_assistants_turns_are_learned(tmp_path):
    file = write_rows(tmp_path / "a.jsonl", [{"messages": CHAT}, {"prompt": "Hi", "answer": "Ho"}])
    prepared = run_chat(tmp_path / "out", file)
    assert prepared.train.whole
    assert learned_texts(tmp_path / "out" / "train") == [
        ["It is 4.<|im_end|>", "It is 6.<|im_end|>"],
        ["Ho<|im_end|>"],
    ]


def test_a_template_that_rewrites_earlier_turns_gets_a_document_an_answer(tmp_path):
    kept = "message['role'] == 'user' or loop.last"
    template = CHATML.replace(
        "message['content']", f"(message['content'] if {kept} else message['content'][:3])"
    )
    file = write_rows(tmp_path / "a.jsonl", [{"messages": CHAT}])
    run_chat(tmp_path / "out", file, template)
    assert learned_texts(tmp_path / "out" / "train") == [
        ["It is 4.<|im_end|>"],
        ["It is 6.<|im_end|>"],
    ]


def test_a_template_that_rewrites_questions_is_refused(tmp_path):
    template = CHATML.replace(
        "message['content']", "(message['content'] if loop.last else message['content'][:3])"
    )
    file = write_rows(tmp_path / "a.jsonl", [{"messages": CHAT}])
    with pytest.raises(DataError, match="row 1: the chat template writes a question anew"):
        run_chat(tmp_path / "out", file, template)


def test_tool_calls_in_short_form_are_read(tmp_path):
    messages = [
        {"role": "user", "content": "Find food"},
        {"role": "assistant", "tool_call": {"name": "find", "arguments": {"city": "Ulm"}}},
        {"role": "tool", "content": [{"name": "Zur Post"}]},
        {"role": "assistant", "content": "Zur Post."},
    ]
    run_chat(tmp_path / "out", write_rows(tmp_path / "a.jsonl", [{"messages": messages}]))
    [[call, answer]] = learned_texts(tmp_path / "out" / "train")
    assert '"name": "find"' in call and '"city": "Ulm"' in call
    assert answer == "Zur Post.<|im_end|>"


@pytest.mark.parametrize(
    ("row", "settings", "words"),
    [
        ({"prompt": "a", "answer": "b"}, {}, "row 1: text is missing or empty"),
        ({"text": ""}, {}, "row 1: text is missing or empty"),
        ({"text": "\ud800"}, {}, "row 1: text holds half of a surrogate pair"),
        ({"text": "a", "cluster": "fun"}, {}, "row 1: cluster must be one of factual"),
        ({"text": "a"}, {"kind": "chat"}, "row 1: prompt is missing"),
        ({"messages": CHAT[:1]}, {"kind": "chat"}, "row 1: messages hold no turn"),
        ({"messages": [{}, CHAT[1]]}, {"kind": "chat"}, "row 1: messages.0.role must be"),
        ({"messages": [{"tool_call": 3}]}, {"kind": "chat"}, "row 1: tool_call must be"),
        ({"messages": "hi"}, {"kind": "chat"}, "row 1: messages must be a list"),
    ],
)
def test_bad_rows_are_named_and_nothing_is_left(tmp_path, row, settings, words):
    file = write_rows(tmp_path / "a.jsonl", [row])
    with pytest.raises(DataError, match=words):
        run(tmp_path / "out", file, **settings)
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


def test_an_empty_corpus_is_refused(tmp_path):
    file = write_rows(tmp_path / "a.jsonl", [])
    with pytest.raises(DataError, match="no documents to train on in .*a.jsonl"):
        run(tmp_path / "out", file)
    assert not (tmp_path / "out").exists()


def test_other_mistakes_are_named(tmp_path):
    file = write_rows(tmp_path / "a.jsonl", [{"text": "a"}])
    with pytest.raises(DataError, match="cannot read .*none.jsonl: No such file"):
        run(tmp_path / "out", tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="exists already"):
        run(tmp_path, file)
    with pytest.raises(ConfigError, match="end_token: the tokenizer has no control token '</s>'"):
        run(tmp_path / "out", file, end_token="</s>")
    with pytest.raises(ConfigError, match="validation_share must be from 0 to below 1, not 2"):
        run(tmp_path / "out", file, validation_share=2)
    with pytest.raises(DataError, match="two licences: a and b"):
        rows = [{"text": "x", "licence": "a"}, {"text": "y", "licence": "b"}]
        run(tmp_path / "out", write_rows(tmp_path / "b.jsonl", rows))


def test_progress_is_told(tmp_path):
    file = write_rows(tmp_path / "a.jsonl", [{"text": text} for text in texts(100)])
    seen = []
    prepared = prepare(
        [file],
        tmp_path / "out",
        tokenizer_json=byte_tokenizer().json,
        config=PrepareConfig(),
        on_progress=seen.append,
    )
    validation = prepared.validation.num_tokens if prepared.validation else 0
    assert seen[-1] == (file, 100, prepared.train.num_tokens + validation)
    assert len(seen) == 2


def test_an_own_tokenizer_reads_any_text():
    text = "Grüße, 東京! \N{ROLLING ON THE FLOOR LAUGHING}"
    for tokenizer_json in (train_tokenizer(()), train_tokenizer(CORPUS, 400)):
        tokenizer = Tokenizer(tokenizer_json)
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert Tokenizer(train_tokenizer(())).size == BYTES_ONLY
    assert len(byte_tokenizer().encode(text)) == len(text.encode())
    with pytest.raises(ConfigError, match="vocab_size must be at least 259, not 100"):
        train_tokenizer(CORPUS, 100)

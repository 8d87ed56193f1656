import pytest

from heddle.errors import ConfigError, DataError
from heddle.tasks.table import TASKS
from heddle.tasks.task import Example
from heddle.text.chat import ChatFormat
from heddle.text.tokenizer import Tokenizer
from heddle.train.data.document import IGNORED, encode_example
from heddle.train.data.task_documents import Curriculum, TaskDocuments
from tests.tiny import CHATML, tiny_tokenizer
from tests.train.data.corpus import byte_tokenizer, task_documents


def test_difficulty_rises_over_the_ramp():
    curriculum = Curriculum(lowest=2, highest=16, num_ramp=100)
    assert {curriculum.level(0, number) for number in range(50)} == {2}
    assert max(curriculum.level(50, number) for number in range(50)) == 9
    assert {curriculum.level(100, number) for number in range(50)} == set(range(2, 17))


def test_a_chat_model_reads_instruction_and_prompt_and_learns_the_answer():
    tokenizer = Tokenizer(tiny_tokenizer().to_str())
    chat = ChatFormat(CHATML, tokenizer, bos_id=None, eos_ids=(2,))
    source = TaskDocuments(
        TASKS["modular_chain"],
        tokenizer,
        end_id=2,
        curriculum=Curriculum(lowest=3, highest=3),
        chat=chat,
    )
    token_N, target_N, _ = source.read(0)
    text = tokenizer.decode(token_N.tolist(), skip_special=False)
    assert TASKS["modular_chain"].instruction in text
    example = TASKS["modular_chain"].example("train", 0, difficulty=3)
    learned = target_N[target_N != IGNORED].tolist()
    assert tokenizer.decode(learned, skip_special=False) == f"{example.answer}<|im_end|>"


def test_fingerprints_follow_what_is_read():
    one = task_documents("copy")
    assert one.fingerprint == task_documents("copy").fingerprint
    for other in (
        task_documents("reverse"),
        task_documents("copy", highest=9),
        task_documents("copy", seed=1),
        task_documents("copy", dense=True),
    ):
        assert other.fingerprint != one.fingerprint


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"lowest": 1}, "difficulty of copy must be from 3 to 1024, not 1"),
        ({"highest": 5000}, "not 5000"),
        ({"lowest": 9, "highest": 8}, "a curriculum must rise"),
    ],
)
def test_levels_that_do_not_exist_are_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        task_documents("copy", **settings)


def test_reasoning_comes_before_the_answer():
    example = Example(prompt="2*(3+4)=", answer="14", reasoning="3+4=7, 2*7=14.")
    tokenizer = byte_tokenizer()
    _, target_N, _ = encode_example(example, tokenizer, end_id=0)
    learned = target_N[target_N != IGNORED].tolist()
    assert tokenizer.decode(learned) == "3+4=7, 2*7=14.\nAnswer: 14"


def test_a_label_must_be_one_token():
    example = Example(prompt="ab=", answer="c", labels=((0, "äö"),))
    with pytest.raises(DataError, match="label 'äö' is 4 tokens"):
        encode_example(example, byte_tokenizer(), end_id=0, dense=True)

import json

import pytest

from heddle.cli.conversation import COMMANDS, SETTINGS, Conversation
from heddle.errors import ConfigError, StorageError


@pytest.fixture
def talk() -> Conversation:
    return Conversation(system="Be brief.", sampling={"temperature": 0.3})


def test_questions_and_answers_alternate(talk):
    talk.ask("Hello?")
    talk.answer("Hello.")
    assert [each["role"] for each in talk.messages] == ["system", "user", "assistant"]


def test_an_empty_answer_takes_the_question_back(talk):
    talk.ask("Hello?")
    talk.answer("")
    assert [each["role"] for each in talk.messages] == ["system"]


def test_help_names_every_command(talk):
    shown = talk.obey("/help")
    assert all(name in shown for name in COMMANDS)


def test_new_keeps_the_system_prompt(talk):
    talk.ask("Hello?")
    talk.obey("/new")
    assert talk.messages == [{"role": "system", "content": "Be brief."}]


def test_system_starts_anew(talk):
    talk.ask("Hello?")
    talk.obey("/system Speak like a pirate.")
    assert talk.messages == [{"role": "system", "content": "Speak like a pirate."}]
    assert talk.obey("/system") == "Speak like a pirate."


def test_set_changes_shows_and_resets(talk):
    talk.obey("/set temperature 1.5")
    talk.obey("/set top_k 40")
    assert talk.sampling == {"temperature": 1.5, "top_k": 40}
    assert all(name in talk.obey("/set") for name in SETTINGS)
    talk.obey("/set top_k default")
    assert talk.sampling == {"temperature": 1.5}


def test_set_think_takes_loops_or_auto(talk):
    assert talk.obey("/set think 4") == "think is 4."
    assert talk.sampling["think"] == {"loops": 4}
    talk.obey("/set think auto")
    assert talk.sampling["think"] == {"loops": "auto"}
    for wrong in ("0", "many", "-1", "1.5", "99999"):
        with pytest.raises(ConfigError, match="auto or a number of loops"):
            talk.obey(f"/set think {wrong}")


@pytest.mark.parametrize(
    "line", ["/nope", "/set colour red", "/set temperature warm", "/set top_k 1.5", "/save"]
)
def test_what_cannot_be_done_is_an_error(talk, line):
    with pytest.raises(ConfigError):
        talk.obey(line)


def test_save_as_json_and_as_markdown(talk, tmp_path):
    talk.ask("Grüße?")
    talk.answer("Grüße.")
    talk.obey(f"/save {tmp_path / 'talk.json'}")
    assert json.loads((tmp_path / "talk.json").read_text(encoding="utf-8")) == talk.messages
    talk.obey(f"/save {tmp_path / 'talk.md'}")
    assert "**assistant**\n\nGrüße." in (tmp_path / "talk.md").read_text(encoding="utf-8")


def test_save_where_nothing_can_be_written(talk, tmp_path):
    with pytest.raises(StorageError, match="cannot be written"):
        talk.obey(f"/save {tmp_path / 'missing' / 'talk.md'}")


def test_quit(talk):
    talk.obey("/quit")
    assert talk.wants_to_quit

import pytest

from heddle.client.model import Delta, Model, Reply, ToolCall, Usage, join
from heddle.client.scripted import ScriptedModel
from heddle.errors import HeddleError

CALL = ToolCall(id="call_1", name="add", arguments='{"a": 1, "b": 2}')
MESSAGES = [{"role": "user", "content": "Hi"}]


def test_answers_come_in_turn():
    full = Reply(text="Bye", reasoning="Hm", finish_reason="length")
    model: Model = ScriptedModel(
        ["Hello", CALL, full, lambda request: request.messages[-1]["content"].upper()]
    )
    assert model.chat(MESSAGES) == Reply(text="Hello")
    assert model.chat(MESSAGES) == Reply(tool_calls=(CALL,), finish_reason="tool_calls")
    assert model.chat(MESSAGES) == full
    assert model.chat(MESSAGES).text == "HI"


def test_a_stream_joins_to_the_answer():
    answer = Reply(
        text="Two words\n",
        reasoning="Hm, so",
        tool_calls=(CALL, ToolCall(id="call_2", name="now", arguments="{}")),
        finish_reason="tool_calls",
        usage=Usage(num_prompt_tokens=1, num_new_tokens=2),
    )
    deltas = list(ScriptedModel([answer]).stream(MESSAGES))
    assert join(deltas) == answer
    assert Delta(text=" words") in deltas


def test_requests_are_kept_as_they_were():
    model = ScriptedModel(["a", "b"])
    messages = [{"role": "user", "content": "Hi"}]
    model.chat(messages, tools=[{"type": "function"}], temperature=0)
    messages[0]["content"] = "changed"
    list(model.stream(messages, response_format={"type": "json_object"}))
    first, second = model.requests
    assert first.messages == MESSAGES and first.tools == [{"type": "function"}]
    assert first.sampling == {"temperature": 0}
    assert second.response_format == {"type": "json_object"}


def test_a_script_that_runs_out_says_so():
    model = ScriptedModel(["only"])
    model.chat(MESSAGES)
    with pytest.raises(HeddleError, match=r"1 answers are used up.*'Hi'"):
        model.chat(MESSAGES)
    assert len(model.requests) == 1

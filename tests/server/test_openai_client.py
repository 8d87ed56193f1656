"""The official Python client, current version, against the real server: the shapes it parses."""

import asyncio

import openai
import pytest
from pydantic import BaseModel

MESSAGES = [{"role": "user", "content": "Hello"}]
TOOLS = [{
    "type": "function",
    "function": {
        "name": "pick",
        "parameters": {
            "type": "object",
            "properties": {"yes": {"type": "boolean"}},
            "required": ["yes"],
            "additionalProperties": False,
        },
        "strict": True,
    },
}]  # fmt: skip


class Verdict(BaseModel):
    yes: bool


@pytest.fixture
def client(url):
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_chat_and_models(client):
    (model,) = client.models.list().data
    assert client.models.retrieve(model.id).id == model.id == "tiny"
    reply = client.chat.completions.create(model=model.id, messages=MESSAGES, max_tokens=5)
    assert reply.choices[0].message.content is not None
    assert reply.usage.completion_tokens_details.reasoning_tokens == 0


def test_stream_helper_builds_the_tool_call(client):
    with client.chat.completions.stream(
        model="tiny", messages=MESSAGES, tools=TOOLS, tool_choice="required",
        parallel_tool_calls=False, max_tokens=100,
    ) as stream:  # fmt: skip
        kinds = {event.type for event in stream}
        (choice,) = stream.get_final_completion().choices
    assert "tool_calls.function.arguments.delta" in kinds
    (call,) = choice.message.tool_calls
    assert isinstance(call.function.parsed_arguments["yes"], bool)
    assert choice.finish_reason == "tool_calls"


def test_parse_helper(client):
    reply = client.chat.completions.parse(
        model="tiny", messages=MESSAGES, response_format=Verdict, max_tokens=50
    )
    assert isinstance(reply.choices[0].message.parsed, Verdict)


def test_answer_can_be_sent_back_as_it_is(client):
    reply = client.chat.completions.create(
        model="tiny", messages=MESSAGES, tools=TOOLS, tool_choice="required", max_tokens=200,
        parallel_tool_calls=False,
    )  # fmt: skip
    message = reply.choices[0].message
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "ok"}
    again = client.chat.completions.create(
        model="tiny", messages=[*MESSAGES, message, result], tools=TOOLS, max_tokens=3
    )
    assert again.usage.prompt_tokens > reply.usage.prompt_tokens


def test_completions_and_embeddings(client):
    reply = client.completions.create(model="tiny", prompt="Hello", max_tokens=3, logprobs=1)
    assert len(reply.choices[0].logprobs.tokens) == 3
    assert len(client.embeddings.create(model="tiny", input="x").data[0].embedding) == 96


def test_errors_have_their_classes(client):
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(model="tiny", messages=MESSAGES, temperature=9)
    assert bad.value.param == "temperature"
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="gpt", messages=MESSAGES)
    assert missing.value.code == "model_not_found"


@pytest.mark.anyio
async def test_async_streams_side_by_side(url):
    async def text(client: openai.AsyncOpenAI) -> str:
        stream = await client.chat.completions.create(
            model="tiny", messages=MESSAGES, max_tokens=20, temperature=0, stream=True
        )
        deltas = [chunk.choices[0].delta.content or "" async for chunk in stream]
        return "".join(deltas)

    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as client:
        texts = await asyncio.gather(*(text(client) for _ in range(4)))
    assert len(set(texts)) == 1 and texts[0]

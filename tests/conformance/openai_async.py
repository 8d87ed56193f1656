"""Drive the asynchronous `openai` client against a server: `python openai_async.py BASE_URL`."""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable

import openai
from checks import expect, run_checks
from schemas import PLACE_FORMAT, UNITS, WEATHER_TOOL, Place

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


class Driver:
    """The checks of one asynchronous client; each method whose name is in `CHECKS` is one check."""

    def __init__(self, client: openai.AsyncOpenAI, model: str):
        self.client = client
        self.model = model

    def chat(self, **options):
        options = {"messages": QUESTION, "max_tokens": 12, "temperature": 0, **options}
        return self.client.chat.completions.create(model=self.model, **options)

    async def text_of_stream(self, **options) -> str:
        pieces = []
        async for chunk in await self.chat(stream=True, **options):
            pieces += [choice.delta.content or "" for choice in chunk.choices]
        return "".join(pieces)

    async def stream_equals_plain(self):
        plain = await self.chat()
        text = await self.text_of_stream()
        expect(text == plain.choices[0].message.content, (text, plain))

    async def many_at_once_equal_alone(self):
        texts = [f"Count to {number}." for number in range(6)]

        async def answer(text):
            reply = await self.chat(messages=[{"role": "user", "content": text}])
            return reply.choices[0].message.content

        alone = [await answer(text) for text in texts]
        together = await asyncio.gather(*(answer(text) for text in texts))
        expect(alone == together, (alone, together))

    async def json_schema_streams(self):
        text = await self.text_of_stream(response_format=PLACE_FORMAT, max_tokens=80)
        Place.model_validate_json(text, strict=True)

    async def parse_helper(self):
        reply = await self.client.chat.completions.parse(
            model=self.model, messages=QUESTION, response_format=Place, max_tokens=80
        )
        expect(isinstance(reply.choices[0].message.parsed, Place), reply)

    async def tools_stream(self):
        async with self.client.chat.completions.stream(
            model=self.model,
            messages=QUESTION,
            tools=[WEATHER_TOOL],
            tool_choice="required",
            parallel_tool_calls=False,
            max_tokens=120,
        ) as stream:
            async for _ in stream:
                pass
            message = (await stream.get_final_completion()).choices[0].message
        expect(len(message.tool_calls) == 1, message)
        for call in message.tool_calls:
            expect(json.loads(call.function.arguments)["unit"] in UNITS, call)

    async def cancelled_task_frees_server(self):
        task = asyncio.create_task(self.text_of_stream(max_tokens=400, temperature=1))
        await asyncio.sleep(0.3)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await self.chat()

    async def embeddings(self):
        reply = await self.client.embeddings.create(model=self.model, input="one")
        expect(len(reply.data[0].embedding) > 0, reply)

    async def error_unknown_model(self):
        try:
            await self.client.chat.completions.create(model="no-such-model", messages=QUESTION)
        except openai.NotFoundError as error:
            expect(error.code == "model_not_found", error.body)
        else:
            raise AssertionError("an unknown model was answered")


CHECKS = (
    "stream_equals_plain",
    "many_at_once_equal_alone",
    "json_schema_streams",
    "parse_helper",
    "tools_stream",
    "cancelled_task_frees_server",
    "embeddings",
    "error_unknown_model",
)


def main() -> int:
    """Run every check against the server named on the command line."""
    loop = asyncio.new_event_loop()
    client = openai.AsyncOpenAI(base_url=sys.argv[1], api_key="unused", max_retries=0, timeout=60)
    model = loop.run_until_complete(client.models.list()).data[0].id
    driver = Driver(client, model)

    def on_loop(check: Callable[[], Awaitable[None]]) -> Callable[[], None]:
        return lambda: loop.run_until_complete(check())

    num_failed = run_checks({name: on_loop(getattr(driver, name)) for name in CHECKS})
    loop.run_until_complete(client.close())
    loop.close()
    return num_failed


if __name__ == "__main__":
    sys.exit(min(main(), 1))

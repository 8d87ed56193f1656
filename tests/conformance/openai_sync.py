"""Drive the synchronous `openai` client against a server: `python openai_sync.py BASE_URL`."""

import json
import sys

import openai
from checks import expect, run_checks
from schemas import CLOCK_TOOL, PLACE_FORMAT, UNITS, WEATHER_TOOL, Place

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


ONE_CALL = {
    "tools": [WEATHER_TOOL],
    "tool_choice": "required",
    "parallel_tool_calls": False,
    "max_tokens": 120,
}


class Driver:
    """The checks of one client; each method whose name is in `CHECKS` is one check."""

    def __init__(self, base_url: str):
        self.client = openai.OpenAI(base_url=base_url, api_key="unused", max_retries=0, timeout=60)
        self.model = self.client.models.list().data[0].id

    def chat(self, **options):
        options = {"messages": QUESTION, "max_tokens": 12, "temperature": 0, **options}
        return self.client.chat.completions.create(model=self.model, **options)

    def models(self):
        listed = self.client.models.list().data
        expect(self.model in [model.id for model in listed], listed)
        expect(self.client.models.retrieve(self.model).object == "model", "not a model")

    def chat_answers(self):
        reply = self.chat()
        choice, usage = reply.choices[0], reply.usage
        expect(reply.object == "chat.completion" and reply.id, reply)
        expect(
            choice.message.role == "assistant" and isinstance(choice.message.content, str), choice
        )
        expect(choice.finish_reason in ("stop", "length"), choice)
        expect(usage.total_tokens == usage.prompt_tokens + usage.completion_tokens, usage)
        expect(0 < usage.completion_tokens <= 12 and usage.prompt_tokens > 0, usage)

    def chat_limits_length(self):
        reply = self.chat(max_tokens=None, max_completion_tokens=1, temperature=1)
        expect(reply.usage.completion_tokens == 1, reply.usage)

    def chat_repeats_with_seed(self):
        first, second, other = (
            self.chat(seed=seed, temperature=1.2).choices[0].message.content for seed in (7, 7, 8)
        )
        expect(first == second, (first, second))
        expect(first != other, (first, other))

    def chat_gives_several_choices(self):
        reply = self.chat(n=3, temperature=1.0)
        expect([choice.index for choice in reply.choices] == [0, 1, 2], reply.choices)

    def chat_stops_at_string(self):
        whole = self.chat(max_tokens=24).choices[0].message.content
        expect(len(whole) > 4, whole)
        stop = whole[3:5]
        reply = self.chat(max_tokens=24, stop=[stop]).choices[0]
        expect(reply.message.content == whole[: whole.index(stop)], (whole, reply))
        expect(reply.finish_reason == "stop", reply)

    def chat_reports_logprobs(self):
        choice = self.chat(logprobs=True, top_logprobs=3, max_tokens=6).choices[0]
        entries = choice.logprobs.content
        text = b"".join(bytes(entry.bytes) for entry in entries).decode("utf-8", errors="replace")
        expect(text.startswith(choice.message.content), (text, choice.message.content))
        for entry in entries:
            expect(entry.logprob <= 0 and len(entry.top_logprobs) == 3, entry)
            expect(max(top.logprob for top in entry.top_logprobs) >= entry.logprob - 1e-6, entry)

    def chat_takes_content_parts(self):
        parts = [{"type": "text", "text": "Say hello."}]
        reply = self.chat(messages=[{"role": "user", "content": parts}])
        same = self.chat(messages=[{"role": "user", "content": "Say hello."}])
        expect(reply.choices[0].message.content == same.choices[0].message.content, (reply, same))

    def chat_takes_extra_sampling(self):
        self.chat(temperature=1, top_p=0.9, presence_penalty=0.5, frequency_penalty=0.5,
                  logit_bias={"5": -100}, extra_body={"top_k": 20, "min_p": 0.01})  # fmt: skip

    def stream_equals_plain(self):
        chunks = list(self.chat(stream=True, stream_options={"include_usage": True}))
        deltas = [chunk.choices[0] for chunk in chunks if chunk.choices]
        expect(deltas[0].delta.role == "assistant", deltas[0])
        finished = [delta.finish_reason for delta in deltas if delta.finish_reason]
        plain = self.chat()
        text = "".join(delta.delta.content or "" for delta in deltas)
        expect(text == plain.choices[0].message.content, (text, plain))
        expect(finished == [plain.choices[0].finish_reason], finished)
        expect(chunks[-1].usage.completion_tokens == plain.usage.completion_tokens, chunks[-1])
        expect(len({chunk.id for chunk in chunks}) == 1, "chunks of one answer differ in id")

    def stream_helper_accumulates(self):
        with self.client.chat.completions.stream(
            model=self.model, messages=QUESTION, response_format=Place, max_tokens=80
        ) as stream:
            pieces = [event.delta for event in stream if event.type == "content.delta"]
            message = stream.get_final_completion().choices[0].message
        expect("".join(pieces) == message.content, (pieces, message))
        expect(isinstance(message.parsed, Place), message)

    def stream_closed_early_frees_server(self):
        stream = self.chat(stream=True, max_tokens=400, temperature=1)
        next(iter(stream))
        stream.close()
        self.chat_answers()

    def json_object(self):
        schema = {"type": "json_object"}
        choice = self.chat(response_format=schema, max_tokens=200, temperature=0).choices[0]
        if choice.finish_reason == "stop":
            expect(isinstance(json.loads(choice.message.content), dict), choice)
        else:
            expect(choice.message.content.lstrip().startswith("{"), choice)

    def json_schema_strict(self):
        reply = self.chat(response_format=PLACE_FORMAT, max_tokens=80, temperature=1, seed=3)
        Place.model_validate_json(reply.choices[0].message.content, strict=True)

    def json_schema_streams(self):
        stream = self.chat(response_format=PLACE_FORMAT, max_tokens=80, stream=True)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
        Place.model_validate_json(text, strict=True)

    def parse_helper(self):
        reply = self.client.chat.completions.parse(
            model=self.model, messages=QUESTION, response_format=Place, max_tokens=80
        )
        expect(isinstance(reply.choices[0].message.parsed, Place), reply)

    def tools_required(self):
        choice = self.chat(**ONE_CALL).choices[0]
        expect(choice.finish_reason == "tool_calls", choice)
        for call in choice.message.tool_calls:
            expect(call.type == "function" and call.id, call)
            expect(call.function.name == "get_weather", call)
            expect(json.loads(call.function.arguments)["unit"] in UNITS, call)

    def tools_named(self):
        named = {"type": "function", "function": {"name": "get_time"}}
        tools = [WEATHER_TOOL, CLOCK_TOOL]
        call = (
            self.chat(tools=tools, tool_choice=named, max_tokens=120)
            .choices[0]
            .message.tool_calls[0]
        )
        expect(call.function.name == "get_time" and json.loads(call.function.arguments) == {}, call)

    def tools_none_gives_text(self):
        message = self.chat(tools=[WEATHER_TOOL], tool_choice="none").choices[0].message
        expect(not message.tool_calls and message.content is not None, message)

    def tools_stream(self):
        names, arguments, finished = {}, {}, []
        for chunk in self.chat(**ONE_CALL, stream=True):
            for choice in chunk.choices:
                finished += [choice.finish_reason] if choice.finish_reason else []
                for call in choice.delta.tool_calls or []:
                    if call.function.name:
                        names[call.index] = call.function.name
                    arguments[call.index] = arguments.get(call.index, "") + (
                        call.function.arguments or ""
                    )
        expect(finished == ["tool_calls"], finished)
        expect(set(names.values()) == {"get_weather"} and set(names) == set(arguments), names)
        for text in arguments.values():
            expect(json.loads(text)["unit"] in UNITS, text)

    def tools_result_goes_back(self):
        call = self.chat(**ONE_CALL).choices[0].message
        answers = [
            {"role": "tool", "tool_call_id": each.id, "content": '{"degrees": 21}'}
            for each in call.tool_calls
        ]
        history = [*QUESTION, call.model_dump(exclude_none=True), *answers]
        reply = self.chat(messages=history, tools=[WEATHER_TOOL], tool_choice="none")
        expect(reply.choices[0].message.role == "assistant", reply)

    def completions(self):
        prompts = ["Once upon a time", "The capital of France is"]
        reply = self.client.completions.create(
            model=self.model, prompt=prompts, max_tokens=8, temperature=0, logprobs=2
        )
        expect([choice.index for choice in reply.choices] == [0, 1], reply)
        logprobs = reply.choices[0].logprobs
        expect(len(logprobs.tokens) == len(logprobs.token_logprobs) > 0, logprobs)
        stream = self.client.completions.create(
            model=self.model, prompt=prompts[0], max_tokens=8, temperature=0, stream=True
        )
        text = "".join(chunk.choices[0].text for chunk in stream if chunk.choices)
        expect(text == reply.choices[0].text, (text, reply.choices[0].text))

    def embeddings(self):
        reply = self.client.embeddings.create(model=self.model, input=["one", "two"])
        vectors = [entry.embedding for entry in reply.data]
        expect(len(vectors) == 2 and len(vectors[0]) == len(vectors[1]) > 0, reply.usage)
        plain = self.client.embeddings.create(
            model=self.model, input="one", encoding_format="float"
        )
        difference = max(
            abs(a - b) for a, b in zip(vectors[0], plain.data[0].embedding, strict=True)
        )
        expect(difference < 1e-5, difference)

    def request_id_is_sent(self):
        expect(bool(self.chat()._request_id), "no x-request-id header")

    def error_unknown_model(self):
        error = self.failure(openai.NotFoundError, model="no-such-model")
        expect(error.code == "model_not_found" and "no-such-model" in str(error), error)

    def error_bad_values(self):
        for parameter, value in {
            "max_tokens": -1,
            "temperature": 99.0,
            "top_p": -1,
            "n": 0,
        }.items():
            error = self.failure(openai.BadRequestError, **{parameter: value})
            expect(error.param == parameter, (parameter, error.body))

    def error_bad_message(self):
        error = self.failure(openai.BadRequestError, messages=[{"role": "nobody", "content": "x"}])
        expect(error.type == "invalid_request_error", error.body)

    def error_bad_schema(self):
        schema = {"name": "bad", "strict": True, "schema": {"type": "no-such-type"}}
        self.failure(
            openai.BadRequestError, response_format={"type": "json_schema", "json_schema": schema}
        )

    def error_prompt_too_long(self):
        messages = [{"role": "user", "content": "word " * 20_000}]
        error = self.failure(openai.BadRequestError, messages=messages)
        expect(error.code == "context_length_exceeded", error.body)
        expect(
            sum(part.strip(".,").isdigit() for part in error.message.split()) >= 2, error.message
        )

    def failure(self, expected: type[openai.APIStatusError], **options) -> openai.APIStatusError:
        """Return the error that a chat ends in; anything but `expected` is a failed check."""
        options = {"model": self.model, "messages": QUESTION, "max_tokens": 4, **options}
        try:
            reply = self.client.chat.completions.create(**options)
        except expected as error:
            return error
        raise AssertionError(f"{options} was answered: {reply}")


CHECKS = (
    "models",
    "chat_answers",
    "chat_limits_length",
    "chat_repeats_with_seed",
    "chat_gives_several_choices",
    "chat_stops_at_string",
    "chat_reports_logprobs",
    "chat_takes_content_parts",
    "chat_takes_extra_sampling",
    "stream_equals_plain",
    "stream_helper_accumulates",
    "stream_closed_early_frees_server",
    "json_object",
    "json_schema_strict",
    "json_schema_streams",
    "parse_helper",
    "tools_required",
    "tools_named",
    "tools_none_gives_text",
    "tools_stream",
    "tools_result_goes_back",
    "completions",
    "embeddings",
    "request_id_is_sent",
    "error_unknown_model",
    "error_bad_values",
    "error_bad_message",
    "error_bad_schema",
    "error_prompt_too_long",
)


def main() -> int:
    """Run every check against the server named on the command line."""
    driver = Driver(sys.argv[1])
    return run_checks({name: getattr(driver, name) for name in CHECKS})


if __name__ == "__main__":
    sys.exit(min(main(), 1))

// Drive the `openai` npm client against a server: `node openai_node.mjs BASE_URL`.
// Prints one JSON line a check, as tests/conformance/checks.py does.

import assert from "node:assert/strict";
import OpenAI from "openai";

const client = new OpenAI({ baseURL: process.argv[2], apiKey: "unused", maxRetries: 0, timeout: 60_000 });
const model = (await client.models.list()).data[0].id;
const question = [{ role: "user", content: "What is the capital of France?" }];
const units = ["celsius", "fahrenheit"];
const weatherTool = {
  type: "function",
  function: {
    name: "get_weather",
    description: "Look up the weather of a city.",
    parameters: {
      type: "object",
      properties: { city: { enum: ["Paris", "Rome", "Oslo"] }, unit: { enum: units } },
      required: ["city", "unit"],
      additionalProperties: false,
    },
  },
};
const placeFormat = {
  type: "json_schema",
  json_schema: {
    name: "place",
    strict: true,
    schema: {
      type: "object",
      properties: { continent: { enum: ["africa", "asia", "europe"] }, is_capital: { type: "boolean" } },
      required: ["continent", "is_capital"],
      additionalProperties: false,
    },
  },
};

const chat = (options = {}) =>
  client.chat.completions.create({ model, messages: question, max_tokens: 12, temperature: 0, ...options });

async function streamed(options) {
  const chunks = [];
  for await (const chunk of await chat({ ...options, stream: true })) chunks.push(chunk);
  const text = chunks.map((chunk) => chunk.choices[0]?.delta?.content ?? "").join("");
  return { chunks, text };
}

const checks = {
  async chat_answers() {
    const reply = await chat();
    assert.equal(reply.choices[0].message.role, "assistant");
    assert.equal(reply.usage.total_tokens, reply.usage.prompt_tokens + reply.usage.completion_tokens);
  },
  async stream_equals_plain() {
    const plain = await chat();
    const { chunks, text } = await streamed({ stream_options: { include_usage: true } });
    assert.equal(text, plain.choices[0].message.content);
    assert.equal(chunks.at(-1).usage.completion_tokens, plain.usage.completion_tokens);
  },
  async stream_aborted_frees_server() {
    const stream = await chat({ stream: true, max_tokens: 400, temperature: 1 });
    for await (const _ of stream) break;
    stream.controller.abort();
    await chat();
  },
  async stream_helper_accumulates() {
    const runner = client.chat.completions.stream({ model, messages: question, max_tokens: 12, temperature: 0 });
    const plain = await chat();
    assert.equal(await runner.finalContent(), plain.choices[0].message.content);
  },
  async json_schema_strict() {
    const reply = await chat({ response_format: placeFormat, max_tokens: 80 });
    const place = JSON.parse(reply.choices[0].message.content);
    assert.equal(typeof place.is_capital, "boolean");
    const { text } = await streamed({ response_format: placeFormat, max_tokens: 80 });
    assert.deepEqual(JSON.parse(text), place);
  },
  async parse_helper() {
    const reply = await client.chat.completions.parse({
      model, messages: question, response_format: placeFormat, max_tokens: 80,
    });
    assert.ok(["africa", "asia", "europe"].includes(JSON.parse(reply.choices[0].message.content).continent));
  },
  async tools_required() {
    const choice = (
      await chat({ tools: [weatherTool], tool_choice: "required", parallel_tool_calls: false, max_tokens: 120 })
    ).choices[0];
    assert.equal(choice.finish_reason, "tool_calls");
    assert.equal(choice.message.tool_calls[0].function.name, "get_weather");
    assert.ok(units.includes(JSON.parse(choice.message.tool_calls[0].function.arguments).unit));
  },
  async tools_stream() {
    const runner = client.chat.completions.stream({
      model, messages: question, tools: [weatherTool], tool_choice: "required", parallel_tool_calls: false,
      max_tokens: 120,
    });
    const message = await runner.finalMessage();
    assert.ok(units.includes(JSON.parse(message.tool_calls[0].function.arguments).unit));
  },
  async completions() {
    const reply = await client.completions.create({ model, prompt: "Once upon a time", max_tokens: 8 });
    assert.equal(reply.object, "text_completion");
    assert.equal(typeof reply.choices[0].text, "string");
  },
  async embeddings() {
    const reply = await client.embeddings.create({ model, input: ["one", "two"] });
    assert.equal(reply.data.length, 2);
    assert.ok(reply.data[0].embedding.length > 0);
    assert.ok(reply.data[0].embedding.every(Number.isFinite));
  },
  async models() {
    assert.equal((await client.models.retrieve(model)).id, model);
  },
  async error_unknown_model() {
    await assert.rejects(chat({ model: "no-such-model" }), (error) => {
      assert.ok(error instanceof OpenAI.NotFoundError);
      assert.equal(error.code, "model_not_found");
      return true;
    });
  },
  async error_bad_request() {
    await assert.rejects(chat({ max_tokens: -1 }), (error) => {
      assert.ok(error instanceof OpenAI.BadRequestError);
      assert.equal(error.param, "max_tokens");
      return true;
    });
  },
};

let numFailed = 0;
for (const [check, run] of Object.entries(checks)) {
  let error = null;
  try {
    await run();
  } catch (failure) {
    error = failure.stack;
    numFailed += 1;
  }
  console.log(JSON.stringify({ check, ok: error === null, error }));
}
process.exit(Math.min(numFailed, 1));

/** One answer as it arrives: chunks in, the message so far out. */

import { ApiError } from '../api/client';
import type { Chunk, TokenRoute, ToolCallDelta } from '../api/types';
import type { Failure, Message, Metrics, ToolCall } from './types';

export class Answer {
  #startedMs: number;
  #firstMs?: number;
  #lastMs?: number;
  #content = '';
  #reasoning = '';
  #toolCalls: ToolCall[] = [];
  #routing: TokenRoute[] = [];
  #model?: string;
  #finishReason?: string;
  #usage?: Chunk['usage'];
  #timings?: Chunk['timings'];

  constructor(
    readonly start: Message,
    nowMs: number,
  ) {
    this.#startedMs = nowMs;
  }

  add(chunk: Chunk, nowMs: number): void {
    this.#model = chunk.model ?? this.#model;
    this.#usage = chunk.usage ?? this.#usage;
    this.#timings = chunk.timings ?? this.#timings;
    const choice = chunk.choices?.[0];
    if (!choice) return;
    const { content, reasoning_content: reasoning, tool_calls: toolCalls } = choice.delta;
    if (content || reasoning || toolCalls) {
      this.#firstMs ??= nowMs;
      this.#lastMs = nowMs;
    }
    this.#content += content ?? '';
    this.#reasoning += reasoning ?? '';
    toolCalls?.forEach((delta) => this.#addToolCall(delta));
    this.#routing.push(...(choice.routing ?? []));
    this.#finishReason = choice.finish_reason ?? this.#finishReason;
  }

  /** Return the message as it stands: partial until `finish`. */
  message(): Message {
    return {
      ...this.start,
      content: this.#content,
      updatedAt: Date.now(),
      reasoning: this.#reasoning || undefined,
      toolCalls: this.#toolCalls.length > 0 ? [...this.#toolCalls] : undefined,
      model: this.#model,
      routing: this.#routing.length > 0 ? [...this.#routing] : undefined,
    };
  }

  finish(): Message {
    return { ...this.message(), state: 'done', finishReason: this.#finishReason, metrics: this.#metrics() };
  }

  fail(error: unknown): Message {
    return { ...this.message(), state: 'failed', failure: describe(error) };
  }

  #addToolCall(delta: ToolCallDelta): void {
    const old = this.#toolCalls[delta.index] ?? { id: '', name: '', arguments: '' };
    this.#toolCalls[delta.index] = {
      id: delta.id ?? old.id,
      name: old.name + (delta.function?.name ?? ''),
      arguments: old.arguments + (delta.function?.arguments ?? ''),
    };
  }

  #metrics(): Metrics {
    const counts = {
      promptTokens: this.#usage?.prompt_tokens,
      cachedTokens: this.#usage?.prompt_tokens_details?.cached_tokens,
      completionTokens: this.#usage?.completion_tokens,
      meanLoops: this.#usage?.compute?.mean_loops,
      flops: this.#usage?.compute?.flops,
      deepestFlops: this.#usage?.compute?.deepest_flops,
    };
    if (this.#timings) {
      return {
        source: 'server',
        ...counts,
        firstTokenMs: this.#timings.time_to_first_token_ms ?? undefined,
        tokensPerSecond: this.#timings.tokens_per_second ?? undefined,
      };
    }
    if (this.#firstMs === undefined) return { source: 'page', ...counts };
    // The first token's own time is the prompt's, not a step of decoding.
    const numSteps = (this.#usage?.completion_tokens ?? 0) - 1;
    const decodeS = (this.#lastMs! - this.#firstMs) / 1000;
    return {
      source: 'page',
      ...counts,
      firstTokenMs: this.#firstMs - this.#startedMs,
      tokensPerSecond: numSteps > 0 && decodeS > 0 ? numSteps / decodeS : undefined,
    };
  }
}

function describe(error: unknown): Failure {
  if (error instanceof ApiError) {
    return { kind: error.kind, message: error.message, retryAfterS: error.retryAfterS };
  }
  return { kind: 'server', message: `The answer could not be read: ${String(error)}` };
}

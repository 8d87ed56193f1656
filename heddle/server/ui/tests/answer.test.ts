import { describe, expect, it } from 'vitest';

import { ApiError } from '../src/api/client';
import type { Chunk, Delta } from '../src/api/types';
import { Answer } from '../src/chat/answer';
import { newMessage } from '../src/chat/tree';

const chunk = (delta: Delta, finish_reason: string | null = null): Chunk => ({
  model: 'tiny',
  choices: [{ delta, finish_reason }],
});

function answer(): Answer {
  return new Answer(newMessage('c', 'q', 'assistant', ''), 1000);
}

describe('Answer', () => {
  it('gathers text, reasoning and tool calls', () => {
    const one = answer();
    one.add(chunk({ content: '' }), 1100);
    one.add(chunk({ reasoning_content: 'Hm' }), 1200);
    one.add(chunk({ content: 'Yes' }), 1300);
    one.add(chunk({ tool_calls: [{ index: 0, id: 't', function: { name: 'look', arguments: '{"a"' } }] }), 1350);
    one.add(chunk({ tool_calls: [{ index: 0, function: { arguments: ':1}' } }] }), 1400);
    expect(one.message()).toMatchObject({ content: 'Yes', reasoning: 'Hm', state: 'partial', model: 'tiny' });
    one.add(chunk({}, 'tool_calls'), 1400);
    expect(one.finish()).toMatchObject({
      state: 'done',
      finishReason: 'tool_calls',
      toolCalls: [{ id: 't', name: 'look', arguments: '{"a":1}' }],
    });
  });

  it('measures by itself when the server sends no timings', () => {
    const one = answer();
    one.add(chunk({ content: 'a' }), 1500);
    one.add(chunk({ content: 'b' }), 2500);
    one.add({ choices: [], usage: { prompt_tokens: 7, completion_tokens: 11 } }, 2600);
    expect(one.finish().metrics).toEqual({
      source: 'page',
      promptTokens: 7,
      completionTokens: 11,
      firstTokenMs: 500,
      tokensPerSecond: 10,
    });
  });

  it('prefers the server’s timings', () => {
    const one = answer();
    one.add(chunk({ content: 'a' }), 1500);
    const timings = { queue_ms: 1, prefill_ms: 2, decode_ms: 3, time_to_first_token_ms: 4, tokens_per_second: 5 };
    one.add({ choices: [], usage: { prompt_tokens: 7, completion_tokens: 1 }, timings }, 1600);
    expect(one.finish().metrics).toMatchObject({ source: 'server', firstTokenMs: 4, tokensPerSecond: 5 });
  });

  it('keeps how each token was read and what that cost', () => {
    const one = answer();
    const routes = ['Y', 'es'].map((token, index) => ({ token, loops: index + 1, clusters: { factual: 1 } }));
    one.add({ choices: [{ delta: { content: 'Y' }, finish_reason: null, routing: [routes[0]!] }] }, 1100);
    one.add({ choices: [{ delta: { content: 'es' }, finish_reason: 'stop', routing: [routes[1]!] }] }, 1200);
    const compute = { mean_loops: 1.5, flops: 3e6, deepest_flops: 12e6 };
    one.add({ choices: [], usage: { prompt_tokens: 7, completion_tokens: 2, compute } }, 1300);
    expect(one.finish()).toMatchObject({
      routing: routes,
      metrics: { meanLoops: 1.5, flops: 3e6, deepestFlops: 12e6 },
    });
  });

  it('keeps what came before a failure', () => {
    const one = answer();
    one.add(chunk({ content: 'half' }), 1500);
    expect(one.fail(new ApiError('busy', 'Full.', 3))).toMatchObject({
      state: 'failed',
      content: 'half',
      failure: { kind: 'busy', message: 'Full.', retryAfterS: 3 },
    });
  });
});

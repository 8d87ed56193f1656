import { expect, it } from 'vitest';

import type { ModelCard } from '../src/api/types';
import { chatRequest, type Sampling } from '../src/chat/request';
import { newMessage } from '../src/chat/tree';

const OFF: Sampling = {
  temperature: 0.3,
  topP: 0.9,
  topK: null,
  minP: 0,
  repetitionPenalty: 1,
  maxTokens: null,
  seed: null,
  stop: [],
  loops: null,
  alignment: 0,
};
const DENSE: ModelCard = { id: 'tiny', think: null, clusters: [], max_alignment: 0 };
const LOOPED: ModelCard = {
  id: 'looped',
  think: { max_loops: 8, default: 1 },
  clusters: ['factual', 'creative'],
  max_alignment: 0.5,
};
const question = newMessage('c', null, 'user', 'Why?');
const failed = { ...newMessage('c', question.id, 'assistant', ''), state: 'failed' as const };

it('leaves out what is off, and answers that never came', () => {
  const request = chatRequest([question, failed, question], ' ', { ...OFF, loops: 8, alignment: 1 }, DENSE);
  expect(JSON.parse(JSON.stringify(request))).toEqual({
    model: 'tiny',
    messages: [
      { role: 'user', content: 'Why?' },
      { role: 'user', content: 'Why?' },
    ],
    stream: true,
    stream_options: { include_usage: true },
    temperature: 0.3,
    top_p: 0.9,
  });
});

it('sends every setting that is on', () => {
  const sampling = { ...OFF, topK: 40, minP: 0.1, repetitionPenalty: 1.1, maxTokens: 64, seed: 0, stop: ['END', ''] };
  expect(chatRequest([question], 'Be brief.', sampling, undefined)).toMatchObject({
    messages: [{ role: 'system', content: 'Be brief.' }, { role: 'user', content: 'Why?' }],
    top_k: 40,
    min_p: 0.1,
    repetition_penalty: 1.1,
    max_tokens: 64,
    seed: 0,
    stop: ['END'],
  });
});

it('turns only the dials that a model has, as far as they go', () => {
  const ask = (change: Partial<Sampling>, model = LOOPED) => chatRequest([question], '', { ...OFF, ...change }, model);
  expect(ask({})).toMatchObject({ think: { loops: 1 }, alignment: undefined, include: ['routing'] });
  expect(ask({ loops: 'auto' }).think).toEqual({ loops: 'auto' });
  expect(ask({ loops: 32, alignment: -1 })).toMatchObject({ think: { loops: 8 }, alignment: -0.5 });
  const bounded = ask({ loops: 4 }, { ...LOOPED, think: null });
  expect(bounded.think).toBeUndefined();
  expect(bounded.include).toEqual(['routing']);
});

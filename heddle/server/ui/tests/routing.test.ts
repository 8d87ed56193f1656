import { expect, it } from 'vitest';

import type { TokenRoute } from '../src/api/types';
import { describe as words, legend, levelOf, readableFlops } from '../src/chat/routing';

const route = (loops: number, creative: number): TokenRoute => ({
  token: 'a',
  loops,
  clusters: { factual: 1 - creative, creative },
});

it('gives each depth its step', () => {
  const levels = [1, 2, 3, 4, 7, 8, 15, 16, 32].map((loops) => levelOf(route(loops, 0), 'depth', []));
  expect(levels).toEqual([0, 1, 1, 2, 2, 3, 3, 4, 4]);
});

it('counts the tokens of each level', () => {
  const routing = [route(1, 0.2), route(1, 0.9), route(20, 0.4)];
  expect(legend(routing, 'depth').map(({ numTokens }) => numTokens)).toEqual([2, 0, 0, 0, 1]);
  expect(legend(routing, 'clusters')).toEqual([
    { index: 0, label: 'factual', numTokens: 2 },
    { index: 1, label: 'creative', numTokens: 1 },
  ]);
});

it('says how a token was read, the heaviest cluster first', () => {
  expect(words(route(3, 0.75))).toBe('3 loops · creative 75% · factual 25%');
  expect(words({ token: 'a', loops: 1, clusters: {} })).toBe('1 loop');
});

it('writes FLOPs with one to three digits before the unit', () => {
  expect([0, 999, 1234, 5.678e9, 2e13, 7e21].map(readableFlops)).toEqual([
    '0 FLOP', '999 FLOP', '1.23 kFLOP', '5.68 GFLOP', '20 TFLOP', '7000 EFLOP',
  ]);
});

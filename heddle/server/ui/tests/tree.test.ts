import { describe, expect, it } from 'vitest';

import { newConversation, newId, newestLeaf, newMessage, pathTo, siblingsOf, titleFrom } from '../src/chat/tree';
import type { Message } from '../src/chat/types';

function tree(...edges: [id: string, parentId: string | null][]): Map<string, Message> {
  return new Map(
    edges.map(([id, parentId], index) => [
      id,
      { ...newMessage('c', parentId, 'user', id), id, createdAt: index },
    ]),
  );
}

describe('the tree of messages', () => {
  const messages = tree(['q', null], ['a1', 'q'], ['a2', 'q'], ['q2', 'a1'], ['b', 'q2'], ['edited', null]);

  it('walks from the root to a leaf', () => {
    expect(pathTo(messages, 'b').map(({ id }) => id)).toEqual(['q', 'a1', 'q2', 'b']);
    expect(pathTo(messages, null)).toEqual([]);
  });

  it('lists versions, oldest first', () => {
    expect(siblingsOf(messages, messages.get('a2')!).map(({ id }) => id)).toEqual(['a1', 'a2']);
    expect(siblingsOf(messages, messages.get('q')!).map(({ id }) => id)).toEqual(['q', 'edited']);
  });

  it('finds the newest leaf below a message', () => {
    expect(newestLeaf(messages, 'a1')).toBe('b');
    expect(newestLeaf(messages, 'q')).toBe('a2');
  });

  it('ends on a loop and on a missing parent', () => {
    expect(pathTo(tree(['x', 'y'], ['y', 'x']), 'x')).toHaveLength(2);
    expect(pathTo(tree(['x', 'gone']), 'x')).toHaveLength(1);
  });
});

describe('titles', () => {
  it('take the first line', () => {
    expect(titleFrom('  What is\tthis?\nAnd more')).toBe('What is this?');
    expect(newConversation('   ', '').title).toBe('Untitled');
  });

  it('are cut at a word, and anywhere in a word without end', () => {
    expect(titleFrom('one two three four five six seven eight nine ten eleven twelve')).toBe(
      'one two three four five six seven eight nine ten eleven…',
    );
    expect(titleFrom('x'.repeat(200))).toBe(`${'x'.repeat(60)}…`);
  });
});

it('makes ids that differ', () => {
  expect(new Set(Array.from({ length: 100 }, newId)).size).toBe(100);
});

import { describe, expect, it } from 'vitest';

import { fileName, fromJson, toJson, toMarkdown } from '../src/chat/transfer';
import { newConversation, newMessage } from '../src/chat/tree';

const conversation = newConversation('A “question”', 'Be brief.\nBe kind.');
const question = newMessage(conversation.id, null, 'user', 'Why?');
const answer = { ...newMessage(conversation.id, question.id, 'assistant', 'Because.'), model: 'tiny' };
const stored = [{ conversation: { ...conversation, leafId: answer.id }, messages: [question, answer] }];

describe('JSON', () => {
  it('round-trips', () => {
    expect(fromJson(toJson(stored))).toEqual(stored);
    expect(fromJson(toJson([]))).toEqual([]);
  });

  it.each([
    ['not json', 'The file is not JSON.'],
    ['null', 'does not hold conversations'],
    ['{"format":"other"}', 'does not hold conversations'],
    ['{"format":"heddle.conversations","version":2,"conversations":[]}', 'has version 2'],
    ['{"format":"heddle.conversations","version":1,"conversations":[{"id":1}]}', 'Conversation 1 of the file is damaged'],
  ])('refuses %s', (text, reason) => {
    expect(() => fromJson(text)).toThrow(reason);
  });

  it.each([
    ['a message of another conversation', [{ ...question, conversationId: 'other' }]],
    ['a loop', [{ ...question, parentId: answer.id }, answer]],
    ['a missing parent', [answer]],
    ['a role that is none', [{ ...question, role: 'system' }]],
    ['no list', 'nothing'],
  ])('refuses %s', (_name, messages) => {
    const text = JSON.stringify({
      format: 'heddle.conversations',
      version: 1,
      conversations: [{ ...conversation, messages }],
    });
    expect(() => fromJson(text)).toThrow('A message of conversation 1');
  });
});

it('writes Markdown', () => {
  expect(toMarkdown(conversation, [question, answer])).toBe(
    '# A “question”\n\n> Be brief.\n> Be kind.\n\n## You\n\nWhy?\n\n## tiny\n\nBecause.\n',
  );
});

it('makes file names of any title', () => {
  expect(fileName('What is 2/3 of "x"?', 'md')).toBe('what-is-2-3-of-x.md');
  expect(fileName('???', 'json')).toBe('conversation.json');
});

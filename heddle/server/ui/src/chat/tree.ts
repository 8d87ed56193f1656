/** Reading and growing the tree of messages. */

import type { Conversation, Message } from './types';

type Messages = ReadonlyMap<string, Message>;

const TITLE_LENGTH = 60;

/** Return a random id; unlike `crypto.randomUUID` this works on a page served over plain HTTP. */
export function newId(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) =>
    byte.toString(16).padStart(2, '0'),
  ).join('');
}

/** Return the first line of `text`, cut at a word. */
export function titleFrom(text: string): string {
  const line = text.trim().split(/\s*\n/, 1)[0]!.replace(/\s+/g, ' ');
  if (line.length <= TITLE_LENGTH) return line || 'Untitled';
  const cut = line.slice(0, TITLE_LENGTH);
  return cut.slice(0, cut.lastIndexOf(' ') > TITLE_LENGTH / 2 ? cut.lastIndexOf(' ') : undefined) + '…';
}

export function newConversation(firstText: string, systemPrompt: string): Conversation {
  const now = Date.now();
  return {
    id: newId(),
    title: titleFrom(firstText),
    systemPrompt,
    leafId: null,
    createdAt: now,
    updatedAt: now,
  };
}

export function newMessage(
  conversationId: string,
  parentId: string | null,
  role: Message['role'],
  content: string,
): Message {
  const now = Date.now();
  const state = role === 'user' ? 'done' : 'partial';
  return { id: newId(), conversationId, parentId, role, content, createdAt: now, updatedAt: now, state };
}

/** Return the messages from the first one down to `leafId`. */
export function pathTo(messages: Messages, leafId: string | null): Message[] {
  const path: Message[] = [];
  const seen = new Set<string>();
  for (let id = leafId; id !== null && !seen.has(id); ) {
    seen.add(id);
    const message = messages.get(id);
    if (!message) break;
    path.push(message);
    id = message.parentId;
  }
  return path.reverse();
}

/** Return the alternatives to a message, itself included, oldest first. */
export function siblingsOf(messages: Messages, message: Message): Message[] {
  return childrenOf(messages, message.parentId);
}

/** Return the leaf that is reached from `id` by following the newest child. */
export function newestLeaf(messages: Messages, id: string): string {
  const newest = childrenOf(messages, id).at(-1);
  return newest ? newestLeaf(messages, newest.id) : id;
}

function childrenOf(messages: Messages, parentId: string | null): Message[] {
  return [...messages.values()]
    .filter((message) => message.parentId === parentId)
    .sort((a, b) => a.createdAt - b.createdAt || (a.id < b.id ? -1 : 1));
}

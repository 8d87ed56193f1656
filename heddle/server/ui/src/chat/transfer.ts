/** Conversations out of the page and back in: Markdown to read, JSON to keep. */

import { pathTo } from './tree';
import type { Conversation, Message } from './types';

export interface ConversationFile {
  format: 'heddle.conversations';
  version: 1;
  conversations: (Conversation & { messages: Message[] })[];
}

export interface Stored {
  conversation: Conversation;
  messages: Message[];
}

export function toJson(stored: Stored[]): string {
  const file: ConversationFile = {
    format: 'heddle.conversations',
    version: 1,
    conversations: stored.map(({ conversation, messages }) => ({ ...conversation, messages })),
  };
  return JSON.stringify(file, null, 2);
}

/** Read what `toJson` wrote. Throws an `Error` that says what is wrong with the file. */
export function fromJson(text: string): Stored[] {
  let file: Partial<ConversationFile>;
  try {
    file = JSON.parse(text) as Partial<ConversationFile>;
  } catch {
    throw new Error('The file is not JSON.');
  }
  if (file?.format !== 'heddle.conversations' || !Array.isArray(file.conversations)) {
    throw new Error('The file does not hold conversations exported from this page.');
  }
  if (file.version !== 1) throw new Error(`The file has version ${file.version}; this page reads version 1.`);
  return file.conversations.map(({ messages, ...conversation }, index) => {
    if (!isConversation(conversation)) throw new Error(`Conversation ${index + 1} of the file is damaged.`);
    if (!isTree(messages, conversation.id)) {
      throw new Error(`A message of conversation ${index + 1} (“${conversation.title}”) is damaged.`);
    }
    return { conversation, messages };
  });
}

/** Write one branch as Markdown. */
export function toMarkdown(conversation: Conversation, path: Message[]): string {
  const turns = path.map((message) => {
    const speaker = message.role === 'user' ? 'You' : (message.model ?? 'Assistant');
    return `## ${speaker}\n\n${message.content.trim()}\n`;
  });
  const system = conversation.systemPrompt.trim();
  const instructions = system ? [`> ${system.replaceAll('\n', '\n> ')}\n`] : [];
  return [`# ${conversation.title}\n`, ...instructions, ...turns].join('\n');
}

/** Return a file name that every system takes. */
export function fileName(title: string, extension: string): string {
  const stem = title
    .normalize('NFKD')
    .replace(/[^\p{L}\p{N}]+/gu, '-')
    .replace(/^-+|-+$/g, '')
    .slice(0, 50)
    .toLowerCase();
  return `${stem || 'conversation'}.${extension}`;
}

function isConversation(value: Partial<Conversation>): value is Conversation {
  return (
    typeof value.id === 'string' &&
    typeof value.title === 'string' &&
    typeof value.systemPrompt === 'string' &&
    (value.leafId === null || typeof value.leafId === 'string') &&
    typeof value.createdAt === 'number' &&
    typeof value.updatedAt === 'number'
  );
}

function isTree(messages: Message[], conversationId: string): boolean {
  if (!Array.isArray(messages) || !messages.every((message) => isMessage(message, conversationId))) return false;
  const byId = new Map(messages.map((message) => [message.id, message]));
  return messages.every((message) => pathTo(byId, message.id)[0]!.parentId === null);
}

function isMessage(value: Partial<Message>, conversationId: string): value is Message {
  return (
    typeof value?.id === 'string' &&
    value.conversationId === conversationId &&
    (value.parentId === null || typeof value.parentId === 'string') &&
    (value.role === 'user' || value.role === 'assistant') &&
    typeof value.content === 'string' &&
    typeof value.createdAt === 'number' &&
    typeof value.updatedAt === 'number' &&
    ['done', 'partial', 'failed'].includes(value.state ?? '')
  );
}

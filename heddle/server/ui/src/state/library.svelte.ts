/** The list of conversations and what can be done with whole ones. */

import { Database } from '../chat/database';
import { fileName, fromJson, toJson, toMarkdown, type Stored } from '../chat/transfer';
import { pathTo } from '../chat/tree';
import type { Conversation } from '../chat/types';
import { forgetDraft } from './drafts';
import { notices } from './notices.svelte';
import { saveFile } from './files';

export interface Found {
  conversation: Conversation;
  /** The words around the first hit in a message; absent when the title matched. */
  excerpt?: string;
}

const EXCERPT_BEFORE = 24;
const EXCERPT_LENGTH = 90;

class Library {
  conversations = $state.raw<Conversation[]>([]);
  #database: Promise<Database> | undefined;

  database(): Promise<Database> {
    this.#database ??= Database.open();
    return this.#database;
  }

  /** Read the list anew, most recent first. */
  async refresh(): Promise<void> {
    const all = await (await this.database()).conversations();
    this.conversations = all
      .filter(({ deletedAt }) => deletedAt === undefined)
      .sort((a, b) => b.updatedAt - a.updatedAt);
  }

  async update(id: string, change: Partial<Conversation>): Promise<void> {
    await (await this.database()).update(id, change);
    await this.refresh();
  }

  async remove({ id, title }: Conversation): Promise<void> {
    await this.update(id, { deletedAt: Date.now() });
    forgetDraft(id);
    notices.show(`Deleted “${title}”`, {
      label: 'Undo',
      run: () => void this.update(id, { deletedAt: undefined }),
    });
  }

  /** Return the conversations whose title or messages contain `query`, whatever its case. */
  async search(query: string): Promise<Found[]> {
    const needle = query.trim().toLowerCase();
    const excerpts = new Map<string, string>();
    for (const { conversationId, content } of await (await this.database()).allMessages()) {
      const at = content.toLowerCase().indexOf(needle);
      if (at >= 0 && !excerpts.has(conversationId)) excerpts.set(conversationId, excerptAt(content, at));
    }
    return this.conversations.flatMap((conversation): Found[] => {
      if (conversation.title.toLowerCase().includes(needle)) return [{ conversation }];
      const excerpt = excerpts.get(conversation.id);
      return excerpt === undefined ? [] : [{ conversation, excerpt }];
    });
  }

  async exportMarkdown(conversation: Conversation): Promise<void> {
    const { messages } = await this.#stored(conversation);
    const path = pathTo(new Map(messages.map((message) => [message.id, message])), conversation.leafId);
    saveFile(fileName(conversation.title, 'md'), 'text/markdown', toMarkdown(conversation, path));
  }

  async exportJson(conversation: Conversation): Promise<void> {
    saveFile(fileName(conversation.title, 'json'), 'application/json', toJson([await this.#stored(conversation)]));
  }

  async exportAll(): Promise<void> {
    const stored = await Promise.all(this.conversations.map((conversation) => this.#stored(conversation)));
    saveFile('heddle-conversations.json', 'application/json', toJson(stored));
  }

  async importFile(file: File): Promise<void> {
    try {
      const stored = fromJson(await file.text());
      const numNew = await (await this.database()).merge(stored);
      await this.refresh();
      notices.show(`${numNew} of ${stored.length} conversations added; the others were here already.`);
    } catch (error) {
      notices.show(`${file.name} was not imported. ${(error as Error).message}`);
    }
  }

  async #stored(conversation: Conversation): Promise<Stored> {
    return { conversation, messages: await (await this.database()).messages(conversation.id) };
  }
}

function excerptAt(text: string, at: number): string {
  const start = Math.max(0, at - EXCERPT_BEFORE);
  const words = text.slice(start, start + EXCERPT_LENGTH).replace(/\s+/g, ' ');
  return (start > 0 ? '…' : '') + words;
}

export const library = new Library();

/**
 * Conversations kept in the browser (IndexedDB).
 *
 * Each message is a record of its own and a conversation's record is changed field by field inside one
 * transaction, so two tabs never overwrite each other. Every change is told to the other tabs.
 */

import { openDB, type DBSchema, type IDBPDatabase } from 'idb';

import type { Stored } from './transfer';
import type { Conversation, Message } from './types';

interface Schema extends DBSchema {
  conversations: { key: string; value: Conversation };
  messages: { key: string; value: Message; indexes: { conversation: string } };
}

/** How long another tab may still undo a deletion. */
const UNDO_MS = 60_000;

export class Database {
  #db: IDBPDatabase<Schema>;
  #channel = new BroadcastChannel('heddle.conversations');

  private constructor(db: IDBPDatabase<Schema>) {
    this.#db = db;
  }

  static async open(): Promise<Database> {
    const db = await openDB<Schema>('heddle', 1, {
      upgrade(database) {
        database.createObjectStore('conversations', { keyPath: 'id' });
        database.createObjectStore('messages', { keyPath: 'id' }).createIndex('conversation', 'conversationId');
      },
    });
    return new Database(db);
  }

  /** Call `listener` with a conversation's id after another tab has changed it. */
  onChange(listener: (conversationId: string) => void): void {
    this.#channel.onmessage = (event: MessageEvent<string>) => listener(event.data);
  }

  conversations(): Promise<Conversation[]> {
    return this.#db.getAll('conversations');
  }

  messages(conversationId: string): Promise<Message[]> {
    return this.#db.getAllFromIndex('messages', 'conversation', conversationId);
  }

  allMessages(): Promise<Message[]> {
    return this.#db.getAll('messages');
  }

  async create(conversation: Conversation): Promise<void> {
    await this.#db.put('conversations', conversation);
    this.#channel.postMessage(conversation.id);
  }

  /** Change some fields of a conversation; nothing happens when it is gone. */
  async update(id: string, change: Partial<Conversation>): Promise<void> {
    const transaction = this.#db.transaction('conversations', 'readwrite');
    const conversation = await transaction.store.get(id);
    if (conversation) await transaction.store.put({ ...conversation, ...change });
    await transaction.done;
    this.#channel.postMessage(id);
  }

  /** Save a message; nothing happens when its conversation is gone. */
  async putMessage(message: Message): Promise<void> {
    const transaction = this.#db.transaction(['conversations', 'messages'], 'readwrite');
    if (await transaction.objectStore('conversations').getKey(message.conversationId)) {
      await transaction.objectStore('messages').put(message);
    }
    await transaction.done;
    this.#channel.postMessage(message.conversationId);
  }

  /** Add conversations and messages that are not there yet. Returns how many conversations were new. */
  async merge(stored: Stored[]): Promise<number> {
    const transaction = this.#db.transaction(['conversations', 'messages'], 'readwrite');
    const conversations = transaction.objectStore('conversations');
    const messages = transaction.objectStore('messages');
    let numNew = 0;
    for (const { conversation, messages: added } of stored) {
      const old = await conversations.get(conversation.id);
      if (!old || old.deletedAt !== undefined) {
        numNew += 1;
        await conversations.put({ ...conversation, deletedAt: undefined });
      }
      for (const message of added) {
        if (!(await messages.getKey(message.id))) await messages.put(message);
      }
    }
    await transaction.done;
    stored.forEach(({ conversation }) => this.#channel.postMessage(conversation.id));
    return numNew;
  }

  /** Remove conversations whose deletion can no longer be undone. */
  async purge(nowMs: number): Promise<void> {
    const transaction = this.#db.transaction(['conversations', 'messages'], 'readwrite');
    const messages = transaction.objectStore('messages');
    for (const { id, deletedAt } of await transaction.objectStore('conversations').getAll()) {
      if (deletedAt === undefined || nowMs - deletedAt < UNDO_MS) continue;
      await transaction.objectStore('conversations').delete(id);
      for (const key of await messages.index('conversation').getAllKeys(id)) await messages.delete(key);
    }
    await transaction.done;
  }
}

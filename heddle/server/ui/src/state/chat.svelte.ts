/** The conversation in view, and the answers that are on their way (which may belong to others). */

import { SvelteMap } from 'svelte/reactivity';

import { streamChat } from '../api/client';
import { Answer } from '../chat/answer';
import { chatRequest, type Sampling } from '../chat/request';
import { newConversation, newestLeaf, newMessage, pathTo } from '../chat/tree';
import type { Conversation, Message } from '../chat/types';
import { library } from './library.svelte';
import { notices } from './notices.svelte';
import { Pace } from './pace';
import { server } from './server.svelte';
import { settings } from './settings.svelte';

interface Running {
  message: Message;
  controller: AbortController;
}

/** For another answer where 0 is set. */
export const OTHER_TEMPERATURE = 0.7;

class Chat {
  conversation = $state.raw<Conversation | null>(null);
  messages = new SvelteMap<string, Message>();
  path = $derived(pathTo(this.messages, this.conversation?.leafId ?? null));
  /** System prompt typed before the conversation's first message. */
  newSystemPrompt = $state('');
  #running = new SvelteMap<string, Running>();
  #openingId: string | null = null;
  isAnswering = $derived(this.#running.has(this.conversation?.id ?? ''));

  /** Return whether this very message is still being written by this tab. */
  isLive(message: Message): boolean {
    return this.#running.get(message.conversationId)?.message.id === message.id;
  }

  /** Show a conversation, or an empty one. Returns false when there is none with that id. */
  async open(id: string | null): Promise<boolean> {
    this.#openingId = id;
    const conversation = library.conversations.find((one) => one.id === id) ?? null;
    const messages = conversation ? await (await library.database()).messages(conversation.id) : [];
    if (this.#openingId !== id) return true;
    this.messages.clear();
    messages.forEach((message) => this.messages.set(message.id, message));
    this.conversation = conversation;
    this.newSystemPrompt = '';
    const running = conversation && this.#running.get(conversation.id);
    if (running) this.messages.set(running.message.id, running.message);
    return conversation !== null || id === null;
  }

  /** Take over what another tab, or the list, has changed about the conversation in view. */
  async refresh(): Promise<void> {
    const { conversation } = this;
    if (!conversation) return;
    const messages = await (await library.database()).messages(conversation.id);
    const current = library.conversations.find(({ id }) => id === conversation.id);
    if (this.conversation?.id !== conversation.id || !current) return;
    for (const message of messages) {
      const isNewer = message.updatedAt > (this.messages.get(message.id)?.updatedAt ?? 0);
      if (isNewer && !this.isLive(message)) this.messages.set(message.id, message);
    }
    // The other tab may stand on another branch: follow it only when it went on from here.
    const { leafId } = this.conversation;
    const follows = pathTo(this.messages, current.leafId).some(({ id }) => id === leafId);
    this.conversation = { ...current, leafId: follows ? current.leafId : leafId };
  }

  /** Add the user's words to the branch in view and have them answered. */
  async send(text: string): Promise<void> {
    const conversation = this.conversation ?? (await this.#create(text));
    await this.#ask(conversation, this.path, text);
  }

  /** Say something else in place of `message`, on a branch of its own. */
  async edit(message: Message, text: string): Promise<void> {
    await this.#ask(this.conversation!, pathTo(this.messages, message.parentId), text);
  }

  /**
   * Write another answer beside `message`; one that failed without a word is replaced. At temperature 0 a finished
   * answer would come out the same, so it is raised.
   */
  async regenerate(message: Message): Promise<void> {
    const branch = pathTo(this.messages, message.parentId);
    const blank = newMessage(message.conversationId, message.parentId, 'assistant', '');
    if (message.state === 'failed' && !message.content) blank.id = message.id;
    const wouldRepeat = message.state === 'done' && settings.temperature === 0;
    const sampling = wouldRepeat ? { ...settings, temperature: OTHER_TEMPERATURE } : settings;
    await this.#answer(this.conversation!, branch, [blank], sampling);
  }

  stop(): void {
    this.#running.get(this.conversation?.id ?? '')?.controller.abort();
  }

  async showBranch(message: Message): Promise<void> {
    await this.#moveTo(message.conversationId, newestLeaf(this.messages, message.id));
  }

  async setSystemPrompt(systemPrompt: string): Promise<void> {
    if (!this.conversation) {
      this.newSystemPrompt = systemPrompt;
      return;
    }
    this.conversation = { ...this.conversation, systemPrompt };
    await library.update(this.conversation.id, { systemPrompt });
  }

  async #create(firstText: string): Promise<Conversation> {
    const conversation = newConversation(firstText, this.newSystemPrompt);
    await (await library.database()).create(conversation);
    await library.refresh();
    this.conversation = conversation;
    history.pushState(null, '', `#${conversation.id}`);
    return conversation;
  }

  async #ask(conversation: Conversation, branch: Message[], text: string): Promise<void> {
    const question = newMessage(conversation.id, branch.at(-1)?.id ?? null, 'user', text);
    const blank = newMessage(conversation.id, question.id, 'assistant', '');
    await this.#answer(conversation, [...branch, question], [question, blank], settings);
  }

  /** Answer `branch`: `added` are the messages that this puts into the tree, the answer's own last. */
  async #answer(
    conversation: Conversation,
    branch: Message[],
    added: Message[],
    sampling: Sampling,
  ): Promise<void> {
    const running = { message: added.at(-1)!, controller: new AbortController() };
    this.#running.set(conversation.id, running);
    try {
      for (const message of added) await this.#add(message);
      await this.#stream(running, conversation, branch, sampling);
    } finally {
      this.#running.delete(conversation.id);
      await this.#save(running.message);
    }
  }

  async #stream(
    running: Running,
    conversation: Conversation,
    branch: Message[],
    sampling: Sampling,
  ): Promise<void> {
    const { signal } = running.controller;
    const systemPrompt = conversation.systemPrompt || settings.systemPrompt;
    const answer = new Answer(running.message, performance.now());
    const pace = new Pace(() => this.#show(running, answer.message()), () => void this.#save(running.message));
    try {
      if (!server.model) await server.check();
      const request = chatRequest(branch, systemPrompt, sampling, server.model);
      for await (const chunk of streamChat(request, settings.apiKey, signal)) {
        answer.add(chunk, performance.now());
        pace.request();
      }
      this.#show(running, answer.finish());
      notices.say('The answer is finished.');
    } catch (error) {
      if (signal.aborted) {
        this.#show(running, answer.message());
        notices.say('The answer was stopped.');
      } else {
        this.#show(running, answer.fail(error));
        notices.say('The answer failed.');
        server.note(error);
      }
    } finally {
      pace.end();
    }
  }

  #show(running: Running, message: Message): void {
    running.message = message;
    if (this.conversation?.id === message.conversationId) this.messages.set(message.id, message);
  }

  async #add(message: Message): Promise<void> {
    if (this.conversation?.id === message.conversationId) this.messages.set(message.id, message);
    await this.#save(message);
    await this.#moveTo(message.conversationId, message.id);
  }

  async #moveTo(conversationId: string, leafId: string): Promise<void> {
    if (this.conversation?.id === conversationId) this.conversation = { ...this.conversation, leafId };
    await library.update(conversationId, { leafId, updatedAt: Date.now() });
  }

  async #save(message: Message): Promise<void> {
    await (await library.database()).putMessage(message);
  }
}

export const chat = new Chat();

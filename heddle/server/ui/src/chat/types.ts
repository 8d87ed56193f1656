/** A conversation is a tree of messages: an edit or a new answer is a sibling of the one it replaces. */

import type { FailureKind } from '../api/client';
import type { TokenRoute } from '../api/types';

export interface Conversation {
  id: string;
  title: string;
  /** Takes the place of the general system prompt when not empty. */
  systemPrompt: string;
  /** The last message of the branch in view. */
  leafId: string | null;
  createdAt: number;
  updatedAt: number;
  /** Set while a deletion can still be undone. */
  deletedAt?: number;
}

export interface ToolCall {
  id: string;
  name: string;
  arguments: string;
}

/** What an answer took. `source` says who held the clock; counts are there only when the server sent them. */
export interface Metrics {
  source: 'server' | 'page';
  promptTokens?: number;
  cachedTokens?: number;
  completionTokens?: number;
  firstTokenMs?: number;
  tokensPerSecond?: number;
  meanLoops?: number;
  flops?: number;
  /** What the same tokens would have taken at the model's deepest setting. */
  deepestFlops?: number;
}

export interface Failure {
  kind: FailureKind;
  message: string;
  retryAfterS?: number;
}

export interface Message {
  id: string;
  conversationId: string;
  parentId: string | null;
  role: 'user' | 'assistant';
  content: string;
  createdAt: number;
  updatedAt: number;
  /** An answer is partial until its last chunk has come: stopped, cut off, or still on its way. */
  state: 'done' | 'partial' | 'failed';
  reasoning?: string;
  toolCalls?: ToolCall[];
  model?: string;
  finishReason?: string;
  failure?: Failure;
  metrics?: Metrics;
  /** Token by token how the answer was read, reasoning included, where the model says. */
  routing?: TokenRoute[];
}

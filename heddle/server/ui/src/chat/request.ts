/** From a branch and the settings to the request that continues it. */

import type { ChatMessage, ChatRequest } from '../api/types';
import type { Message } from './types';

export interface Sampling {
  temperature: number;
  topP: number;
  topK: number | null;
  minP: number;
  repetitionPenalty: number;
  maxTokens: number | null;
  seed: number | null;
  /** Empty ones are as good as none. */
  stop: string[];
}

/** Parameters outside OpenAI's own are left out while they are off, so that any server takes the request. */
export function chatRequest(
  path: Message[],
  systemPrompt: string,
  sampling: Sampling,
  model: string | undefined,
): ChatRequest {
  const system: ChatMessage[] = systemPrompt.trim() ? [{ role: 'system', content: systemPrompt }] : [];
  const stop = sampling.stop.filter((line) => line !== '');
  const turns = path.filter((message) => message.role === 'user' || message.content !== '');
  return {
    model,
    messages: [...system, ...turns.map(({ role, content }) => ({ role, content }))],
    stream: true,
    stream_options: { include_usage: true },
    temperature: sampling.temperature,
    top_p: sampling.topP,
    top_k: sampling.topK ?? undefined,
    min_p: sampling.minP || undefined,
    repetition_penalty: sampling.repetitionPenalty === 1 ? undefined : sampling.repetitionPenalty,
    max_tokens: sampling.maxTokens ?? undefined,
    seed: sampling.seed ?? undefined,
    stop: stop.length > 0 ? stop : undefined,
  };
}

/** From a branch and the settings to the request that continues it. */

import type { ChatMessage, ChatRequest, Loops, ModelCard } from '../api/types';
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
  /** Null is the server's default. */
  loops: Loops | null;
  /** From -1, strictly factual, to 1, creative. */
  alignment: number;
}

/** Parameters outside OpenAI's own are left out while they are off, so that any server takes the request. */
export function chatRequest(
  path: Message[],
  systemPrompt: string,
  sampling: Sampling,
  model: ModelCard | undefined,
): ChatRequest {
  const system: ChatMessage[] = systemPrompt.trim() ? [{ role: 'system', content: systemPrompt }] : [];
  const stop = sampling.stop.filter((line) => line !== '');
  const loops = loopsFor(model, sampling.loops);
  const isAdaptive = loops !== undefined || Boolean(model?.clusters?.length);
  const turns = path.filter((message) => message.role === 'user' || message.content !== '');
  return {
    model: model?.id,
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
    think: loops === undefined ? undefined : { loops },
    alignment: alignmentFor(model, sampling.alignment) || undefined,
    include: isAdaptive ? ['routing'] : undefined,
  };
}

/** Return what a model makes of a wish: its default for none, its deepest for more; undefined without a dial. */
export function loopsFor(model: ModelCard | undefined, wish: Loops | null): Loops | undefined {
  if (!model?.think) return undefined;
  const loops = wish ?? model.think.default;
  return loops === 'auto' ? loops : Math.min(loops, model.think.max_loops);
}

export function alignmentFor(model: ModelCard | undefined, wish: number): number {
  const most = model?.clusters?.length ? (model.max_alignment ?? 1) : 0;
  return Math.max(-most, Math.min(wish, most));
}

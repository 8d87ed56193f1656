/** Calls to the server that served this page. Addresses are relative, so that a path prefix in front is no matter. */

import { readEvents } from './sse';
import type { ChatRequest, Chunk, ErrorBody, ModelCard } from './types';

/** away: no connection; key: it asks for a key; busy: try again later; request: our request is at fault; server: its own. */
export type FailureKind = 'away' | 'key' | 'busy' | 'request' | 'server';

export class ApiError extends Error {
  constructor(
    readonly kind: FailureKind,
    message: string,
    readonly retryAfterS?: number,
  ) {
    super(message);
  }
}

const AWAY = 'The server does not answer.';
const BROKEN = 'The connection broke before the answer was finished.';

/** Return whether the server is ready to generate; false when it cannot be reached. */
export async function isReady(): Promise<boolean> {
  try {
    return (await fetch('ready', { cache: 'no-store' })).ok;
  } catch {
    return false;
  }
}

export async function listModels(apiKey: string): Promise<ModelCard[]> {
  const response = await call('v1/models', { headers: headers(apiKey) });
  return ((await response.json()) as { data: ModelCard[] }).data;
}

/** Yield the chunks of one streamed answer. Throws `ApiError`, or `AbortError` once `signal` fires. */
export async function* streamChat(
  request: ChatRequest,
  apiKey: string,
  signal: AbortSignal,
): AsyncGenerator<Chunk> {
  const response = await call('v1/chat/completions', {
    method: 'POST',
    headers: { ...headers(apiKey), 'content-type': 'application/json' },
    body: JSON.stringify(request),
    signal,
  });
  try {
    for await (const data of readEvents(response.body!)) {
      if (data === '[DONE]') return;
      const chunk = JSON.parse(data) as Chunk;
      if (chunk.error) throw new ApiError('server', chunk.error.message);
      yield chunk;
    }
  } catch (error) {
    if (error instanceof ApiError || signal.aborted) throw error;
    throw new ApiError('away', BROKEN);
  }
  throw new ApiError('away', BROKEN);
}

function headers(apiKey: string): Record<string, string> {
  return apiKey ? { authorization: `Bearer ${apiKey}` } : {};
}

async function call(path: string, init: RequestInit): Promise<Response> {
  let response: Response;
  try {
    response = await fetch(path, init);
  } catch (error) {
    if (init.signal?.aborted) throw error;
    throw new ApiError('away', AWAY);
  }
  if (response.ok) return response;
  throw await refusal(response);
}

async function refusal(response: Response): Promise<ApiError> {
  const body = (await response.json().catch(() => ({}))) as { error?: ErrorBody };
  const message = body.error?.message ?? `The server answered ${response.status}.`;
  const retryAfterS = Number(response.headers.get('retry-after')) || undefined;
  return new ApiError(kindOf(response.status), message, retryAfterS);
}

function kindOf(status: number): FailureKind {
  if (status === 401) return 'key';
  if (status === 429 || status === 503) return 'busy';
  if (status === 502 || status === 504) return 'away';
  return status < 500 ? 'request' : 'server';
}

/** The server's JSON, as far as the page reads or writes it (OpenAI's Chat Completions and our additions). */

export interface ModelCard {
  id: string;
  description?: string;
  /** Absent or null where there is nothing to turn: another server, a dense model, a key's bounds. */
  think?: { max_loops: number; default: Loops } | null;
  clusters?: string[];
  max_alignment?: number;
}

/** Passes of each token through the thinking block: so many, or as each token needs. */
export type Loops = number | 'auto';

export interface ChatMessage {
  role: 'system' | 'user' | 'assistant';
  content: string;
}

export interface ChatRequest {
  model?: string;
  messages: ChatMessage[];
  stream: true;
  stream_options: { include_usage: true };
  temperature: number;
  top_p: number;
  top_k?: number;
  min_p?: number;
  repetition_penalty?: number;
  max_tokens?: number;
  seed?: number;
  stop?: string[];
  think?: { loops: Loops };
  alignment?: number;
  include?: ['routing'];
}

/** How one token of an answer was read; `token` is the text that it completes. */
export interface TokenRoute {
  token: string;
  loops: number;
  clusters: Record<string, number>;
}

export interface ToolCallDelta {
  index: number;
  id?: string;
  function?: { name?: string; arguments?: string };
}

export interface Delta {
  content?: string | null;
  reasoning_content?: string | null;
  tool_calls?: ToolCallDelta[];
}

export interface Usage {
  prompt_tokens: number;
  completion_tokens: number;
  prompt_tokens_details?: { cached_tokens?: number } | null;
  compute?: { mean_loops: number; flops: number; deepest_flops: number } | null;
}

export interface Timings {
  queue_ms: number;
  prefill_ms: number;
  decode_ms: number;
  time_to_first_token_ms: number | null;
  tokens_per_second: number | null;
}

export interface ErrorBody {
  message: string;
}

export interface Chunk {
  model?: string;
  choices?: { delta: Delta; finish_reason: string | null; routing?: TokenRoute[] }[];
  usage?: Usage | null;
  timings?: Timings | null;
  error?: ErrorBody;
}

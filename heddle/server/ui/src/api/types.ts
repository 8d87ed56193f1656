/** The server's JSON, as far as the page reads or writes it (OpenAI's Chat Completions and our additions). */

export interface ModelCard {
  id: string;
  description?: string;
}

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
  choices?: { delta: Delta; finish_reason: string | null }[];
  usage?: Usage | null;
  timings?: Timings | null;
  error?: ErrorBody;
}

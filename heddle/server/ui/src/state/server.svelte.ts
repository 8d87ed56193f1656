/** Whether the server can be reached, and the models it serves. */

import { ApiError, isReady, listModels } from '../api/client';
import type { ModelCard } from '../api/types';
import { settings } from './settings.svelte';

const RETRY_MS = 2000;

class Server {
  isAway = $state(false);
  /** The server asked for an API key, or refused the one it got. */
  needsKey = $state(false);
  models = $state.raw<ModelCard[]>([]);
  model = $derived(this.models.find(({ id }) => id === settings.model) ?? this.models[0]);
  #timer: ReturnType<typeof setTimeout> | undefined;

  /** Ask the server how it is; while it is away, ask again until it is back. */
  async check(): Promise<void> {
    clearTimeout(this.#timer);
    this.isAway = !(await isReady());
    if (this.isAway) this.#timer = setTimeout(() => void this.check(), RETRY_MS);
    else await this.#readModels();
  }

  /** Take notice of a failed request. */
  note(error: unknown): void {
    if (!(error instanceof ApiError)) return;
    if (error.kind === 'away' || error.kind === 'busy') void this.check();
    if (error.kind === 'key') this.needsKey = true;
  }

  async #readModels(): Promise<void> {
    try {
      this.models = await listModels(settings.apiKey);
      this.needsKey = false;
    } catch (error) {
      this.note(error);
    }
  }
}

export const server = new Server();

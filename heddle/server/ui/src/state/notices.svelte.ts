/** Short messages to the user: a toast to see, perhaps with an action, and words for screen readers only. */

export interface Toast {
  text: string;
  action?: { label: string; run: () => void };
}

const TOAST_MS = 8000;

class Notices {
  toast = $state.raw<Toast | null>(null);
  spoken = $state('');
  #timer: ReturnType<typeof setTimeout> | undefined;

  show(text: string, action?: Toast['action']): void {
    this.toast = { text, action };
    this.resume();
  }

  dismiss(): void {
    clearTimeout(this.#timer);
    this.toast = null;
  }

  /** Keep the toast for as long as the pointer or the focus is on it. */
  hold(): void {
    clearTimeout(this.#timer);
  }

  resume(): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => (this.toast = null), TOAST_MS);
  }

  say(text: string): void {
    this.spoken = text;
  }
}

export const notices = new Notices();

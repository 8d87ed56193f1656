/** What the user has set, kept in this browser's localStorage. */

import type { Sampling } from '../chat/request';
import type { Colour } from '../chat/routing';

export type Theme = 'system' | 'light' | 'dark';

export interface Settings extends Sampling {
  systemPrompt: string;
  apiKey: string;
  theme: Theme;
  model: string;
  /** How the next answer's tokens are coloured. */
  colour: Colour;
}

const KEY = 'heddle.settings';
/** Read by `public/theme.js` before the first paint. */
const THEME_KEY = 'heddle.theme';

/** A small model is at its best with the likeliest word, and repeats itself without a slight penalty. */
export const DEFAULTS: Settings = {
  systemPrompt: '',
  temperature: 0,
  topP: 0.9,
  topK: null,
  minP: 0,
  repetitionPenalty: 1.05,
  maxTokens: null,
  seed: null,
  stop: [],
  loops: null,
  alignment: 0,
  apiKey: '',
  theme: 'system',
  model: '',
  colour: 'none',
};

export const settings: Settings = $state(load());

export function resetSettings(): void {
  const { apiKey, theme, model, colour } = settings;
  Object.assign(settings, DEFAULTS, { stop: [], apiKey, theme, model, colour });
}

/** Keep the store and the page's theme in step with `settings`; call once from a component. */
export function followSettings(): void {
  $effect(() => {
    localStorage.setItem(KEY, JSON.stringify(settings));
    localStorage.setItem(THEME_KEY, settings.theme);
    document.documentElement.dataset.theme = settings.theme;
  });
  $effect(() => {
    const reload = (event: StorageEvent) => {
      if (event.key === KEY) Object.assign(settings, load());
    };
    addEventListener('storage', reload);
    return () => removeEventListener('storage', reload);
  });
}

function load(): Settings {
  const stored = JSON.parse(localStorage.getItem(KEY) ?? '{}') as Partial<Settings>;
  return { ...DEFAULTS, ...stored };
}

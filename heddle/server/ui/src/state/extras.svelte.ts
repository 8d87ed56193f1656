/** The heavy parts of Markdown, fetched when the first text needs them; whoever reads them is rendered again then. */

import type { Extras } from '../markdown/markdown';

const CODE = /^ {0,3}(```|~~~)/m;
const MATHS = /\$|\\\(|\\\[/;

class LazyExtras implements Extras {
  highlight = $state.raw<Extras['highlight']>();
  mathml = $state.raw<Extras['mathml']>();
  #requested = new Set<string>();

  /** Start to load what `text` needs; after a failure the next text that needs it tries again. */
  prepare(text: string): void {
    if (CODE.test(text)) this.#load('code', async () => {
      this.highlight = (await import('../markdown/highlight')).highlight;
    });
    if (MATHS.test(text)) this.#load('maths', async () => {
      this.mathml = (await import('../markdown/tex')).mathml;
    });
  }

  #load(name: string, load: () => Promise<void>): void {
    if (this.#requested.has(name)) return;
    this.#requested.add(name);
    load().catch(() => this.#requested.delete(name));
  }
}

export const extras = new LazyExtras();

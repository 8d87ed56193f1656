/** Spreads the work of a stream: at most one paint a frame, one save a second. */

const SAVE_MS = 1000;
/** Frames do not come while the tab is hidden. */
const HIDDEN_PAINT_MS = 250;

export class Pace {
  #frame: number | undefined;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #savedMs = performance.now();

  constructor(
    private readonly paint: () => void,
    private readonly save: () => void,
  ) {}

  /** Ask for a paint; several requests before it make one. */
  request(): void {
    if (this.#frame !== undefined || this.#timer !== undefined) return;
    if (document.hidden) this.#timer = setTimeout(() => this.#run(), HIDDEN_PAINT_MS);
    else this.#frame = requestAnimationFrame(() => this.#run());
  }

  end(): void {
    if (this.#frame !== undefined) cancelAnimationFrame(this.#frame);
    clearTimeout(this.#timer);
  }

  #run(): void {
    this.#frame = this.#timer = undefined;
    this.paint();
    if (performance.now() - this.#savedMs < SAVE_MS) return;
    this.#savedMs = performance.now();
    this.save();
  }
}

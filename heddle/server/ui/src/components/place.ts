const GAP = 4;
const MARGIN = 8;

/** Put a popover below its anchor, or above where it does not fit, along one edge of it and inside the window. */
export function place(popover: HTMLElement, anchor: HTMLElement, edge: 'left' | 'right'): void {
  const at = anchor.getBoundingClientRect();
  const { width, height } = popover.getBoundingClientRect();
  const left = edge === 'left' ? at.left : at.right - width;
  const isAbove = at.bottom + height + MARGIN >= innerHeight;
  popover.style.left = `${Math.max(MARGIN, Math.min(left, innerWidth - width - MARGIN))}px`;
  // Held by the edge next to the anchor, so that it can grow away from it.
  popover.style.top = isAbove ? 'auto' : `${at.bottom + GAP}px`;
  popover.style.bottom = isAbove ? `${Math.min(innerHeight - at.top + GAP, innerHeight - height - MARGIN)}px` : 'auto';
}

/**
 * TeX in Markdown: `$…$` and `\(…\)` within a line, `$$…$$` and `\[…\]` as displays.
 *
 * A single dollar opens maths under Pandoc's rule (User's Guide, tex_math_dollars): no space just inside
 * the dollars and no digit after the closing one, so that prices stay prices.
 */

import type { MarkdownIt, StateBlock, StateInline } from 'markdown-it';

const DELIMITERS = [
  { open: '$$', close: '$$', display: true },
  { open: '\\[', close: '\\]', display: true },
  { open: '\\(', close: '\\)', display: false },
  { open: '$', close: '$', display: false },
];

export function mathPlugin(md: MarkdownIt): void {
  md.inline.ruler.before('escape', 'math', inlineMath);
  md.block.ruler.before('fence', 'math', blockMath, { alt: ['paragraph', 'reference', 'blockquote', 'list'] });
}

function inlineMath(state: StateInline, silent: boolean): boolean {
  const delimiter = DELIMITERS.find(({ open }) => state.src.startsWith(open, state.pos));
  if (!delimiter) return false;
  const start = state.pos + delimiter.open.length;
  const end = findClose(state.src, start, state.posMax, delimiter.close);
  if (end < 0) return false;
  const tex = state.src.slice(start, end);
  if (delimiter.open === '$' && !isDollarMath(tex, state.src[end + 1])) return false;
  if (!silent) {
    const token = state.push(delimiter.display ? 'math_display' : 'math_inline', 'math', 0);
    token.content = tex.trim();
  }
  state.pos = end + delimiter.close.length;
  return true;
}

function findClose(source: string, start: number, limit: number, close: string): number {
  for (let end = source.indexOf(close, start); end >= 0 && end < limit; end = source.indexOf(close, end + 1)) {
    if (source[end - 1] !== '\\' && end > start) return end;
  }
  return -1;
}

function isDollarMath(tex: string, next: string | undefined): boolean {
  return !/^\s|\s$|\n\s*\n/.test(tex) && !/\d/.test(next ?? '');
}

/** A display that starts a line and ends one; an unclosed one runs to the end, as a fence does. */
function blockMath(state: StateBlock, startLine: number, endLine: number, silent: boolean): boolean {
  const lineAt = (line: number) => state.src.slice(state.bMarks[line]! + state.tShift[line]!, state.eMarks[line]);
  const first = lineAt(startLine);
  const delimiter = DELIMITERS.find(({ open, display }) => display && first.startsWith(open));
  if (!delimiter) return false;
  const lines = [first.slice(delimiter.open.length)];
  let line = startLine;
  while (!lines.at(-1)!.includes(delimiter.close)) {
    line += 1;
    if (line >= endLine) break;
    lines.push(lineAt(line));
  }
  const tail = lines.at(-1)!;
  const isClosed = tail.includes(delimiter.close);
  if (isClosed && !tail.trimEnd().endsWith(delimiter.close)) return false;
  if (silent) return true;
  const text = lines.join('\n').trimEnd();
  const token = state.push('math_display', 'math', 0);
  token.block = true;
  token.content = (isClosed ? text.slice(0, -delimiter.close.length) : text).trim();
  token.meta = { isClosed };
  token.map = [startLine, Math.min(line + 1, endLine)];
  state.line = Math.min(line + 1, endLine);
  return true;
}

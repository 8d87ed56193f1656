/**
 * Markdown that grows: each update renders the last block anew and leaves those before it as they are.
 *
 * A block is settled once another follows it, so the work of a step depends on the length of the last block,
 * not on that of the answer.
 */

import type { Env, MarkdownIt, Token } from 'markdown-it';

import { createMarkdown, sanitise, type Extras } from './markdown';

export class BlockRenderer {
  #md: MarkdownIt;
  #env: Env = {};
  #settled: string[] = [];
  #settledSource = '';

  constructor(extras: Extras) {
    this.#md = createMarkdown(extras);
  }

  /** Return the HTML of each top-level block. A complete source is rendered as a whole. */
  render(source: string, isGrowing: boolean): string[] {
    if (!isGrowing || !source.startsWith(this.#settledSource)) this.#reset();
    const tail = source.slice(this.#settledSource.length);
    const blocks = splitBlocks(this.#md.parse(tail, this.#env));
    if (!isGrowing) return blocks.map((block) => this.#html(block, false));
    const last = blocks.pop();
    if (!last) return this.#settled;
    this.#settled = [...this.#settled, ...blocks.map((block) => this.#html(block, false))];
    this.#settledSource += tail.slice(0, offsetOfLine(tail, last[0]!.map![0]));
    return [...this.#settled, this.#html(last, true)];
  }

  #html(tokens: Token[], isGrowing: boolean): string {
    return sanitise(this.#md.renderer.render(tokens, this.#md.options, { ...this.#env, isGrowing }));
  }

  #reset(): void {
    this.#env = {};
    this.#settled = [];
    this.#settledSource = '';
  }
}

function splitBlocks(tokens: Token[]): Token[][] {
  const blocks: Token[][] = [];
  let depth = 0;
  for (const token of tokens) {
    if (depth === 0) blocks.push([]);
    blocks.at(-1)!.push(token);
    depth += token.nesting;
  }
  return blocks;
}

function offsetOfLine(text: string, line: number): number {
  let offset = 0;
  for (let passed = 0; passed < line; passed += 1) offset = text.indexOf('\n', offset) + 1;
  return offset;
}

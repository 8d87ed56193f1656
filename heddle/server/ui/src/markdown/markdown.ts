/** Markdown to safe HTML: no raw HTML, no images from elsewhere, no inline styles (the page's CSP forbids them). */

import DOMPurify from 'dompurify';
import markdownIt, { type Env, type MarkdownIt, type RendererRule, type Token } from 'markdown-it';

import { mathPlugin } from './math';

/** The heavy parts, which the page loads when an answer first needs them. */
export interface Extras {
  /** Return HTML for `code`, null for a language that is not known. */
  highlight?: (code: string, language: string) => string | null;
  /** Return MathML. */
  mathml?: (tex: string, display: boolean) => string;
}

/** Code that is still growing is coloured up to this length, beyond it once it is complete. */
const LIVE_HIGHLIGHT_LENGTH = 4000;

export function createMarkdown(extras: Extras): MarkdownIt {
  const md = markdownIt({ html: false, linkify: true });
  md.linkify.set({ fuzzyLink: false, fuzzyEmail: false });
  // A line of text above a list's first "-" would flash as a heading while it streams.
  md.disable('lheading');
  md.use(mathPlugin);
  const { rules } = md.renderer;
  const escape = md.utils.escapeHtml;
  const code: RendererRule = (tokens, index, _options, env) => codeBlock(tokens[index]!, extras, env, escape);
  rules.fence = code;
  rules.code_block = code;
  rules.math_inline = (tokens, index) => math(tokens[index]!, false, extras, escape);
  rules.math_display = (tokens, index) => math(tokens[index]!, true, extras, escape);
  rules.image = (tokens, index) => imageLink(tokens[index]!, escape);
  rules.table_open = () => '<div class="table" role="region" aria-label="Table" tabindex="0"><table>\n';
  rules.table_close = () => '</table></div>\n';
  rules.th_open = (tokens, index) => cell('th', tokens[index]!);
  rules.td_open = (tokens, index) => cell('td', tokens[index]!);
  rules.link_open = (tokens, index, options, _env, self) => {
    tokens[index]!.attrSet('rel', 'noopener noreferrer');
    tokens[index]!.attrSet('target', '_blank');
    return self.renderToken(tokens, index, options);
  };
  return md;
}

export function sanitise(html: string): string {
  return DOMPurify.sanitize(html, {
    USE_PROFILES: { html: true, mathMl: true },
    ADD_TAGS: ['semantics', 'annotation'],
    ADD_ATTR: ['target', 'encoding'],
    FORBID_TAGS: ['style', 'img', 'form', 'input'],
    FORBID_ATTR: ['style'],
  });
}

type Escape = (text: string) => string;

function codeBlock(token: Token, extras: Extras, env: Env | undefined, escape: Escape): string {
  const language = token.info.trim().split(/\s+/, 1)[0]!;
  const isLong = token.content.length > LIVE_HIGHLIGHT_LENGTH;
  const coloured = env?.isGrowing && isLong ? null : (extras.highlight?.(token.content, language) ?? null);
  return (
    `<div class="code"><div class="code-head"><span>${escape(language || 'text')}</span>` +
    '<button type="button" class="copy-code">Copy</button></div>' +
    `<pre tabindex="0"><code>${coloured ?? escape(token.content)}</code></pre></div>\n`
  );
}

function math(token: Token, display: boolean, extras: Extras, escape: Escape): string {
  const isClosed = (token.meta as { isClosed?: boolean } | null)?.isClosed ?? true;
  const kind = display ? 'math math-display' : 'math';
  if (isClosed && extras.mathml) {
    const attributes = display ? ' tabindex="0" role="region" aria-label="Formula"' : '';
    return `<span class="${kind}"${attributes}>${extras.mathml(token.content, display)}</span>`;
  }
  return `<span class="${kind} math-source">${escape(token.content)}</span>`;
}

function imageLink(token: Token, escape: Escape): string {
  const address = String(token.attrGet('src') ?? '');
  const label = token.content || address;
  return `<a href="${escape(address)}" rel="noopener noreferrer" target="_blank">Image: ${escape(label)}</a>`;
}

function cell(tag: 'th' | 'td', token: Token): string {
  const alignment = /text-align:(\w+)/.exec(String(token.attrGet('style') ?? ''))?.[1];
  return alignment ? `<${tag} class="align-${alignment}">` : `<${tag}>`;
}

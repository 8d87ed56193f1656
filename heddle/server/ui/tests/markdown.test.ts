// @vitest-environment jsdom
import { describe, expect, it } from 'vitest';

import { BlockRenderer } from '../src/markdown/blocks';
import { highlight } from '../src/markdown/highlight';
import { mathml } from '../src/markdown/tex';

const EXTRAS = { highlight, mathml };

const render = (source: string) => new BlockRenderer(EXTRAS).render(source, false).join('');

describe('safety', () => {
  it.each([
    '<script>alert(1)</script>',
    '<img src=x onerror=alert(1)>',
    '[x](javascript:alert(1))',
    '![x](https://example.org/a.png)',
    '```"><img src=x onerror=alert(1)>\ncode\n```',
    '$\\href{javascript:alert(1)}{x}$',
    '<p style="color:red">x</p>',
  ])('%s does nothing', (source) => {
    const holder = document.createElement('div');
    holder.innerHTML = render(source);
    expect(holder.querySelector('script, img, style, [style], [onerror]')).toBeNull();
    for (const link of holder.querySelectorAll('[href]')) expect(link.getAttribute('href')).toMatch(/^https:/);
  });

  it('opens links apart from the page', () => {
    expect(render('https://example.org')).toContain('rel="noopener noreferrer"');
    expect(render('https://example.org')).toContain('target="_blank"');
  });
});

describe('code', () => {
  it('is labelled and coloured', () => {
    const html = render('```python\ndef f(): pass\n```');
    expect(html).toContain('<span>python</span>');
    expect(html).toContain('<span class="hljs-keyword">def</span>');
    expect(html).toContain('class="copy-code"');
  });

  it('of an unknown language stays plain and escaped', () => {
    expect(render('```nonsense\n<b>\n```')).toContain('&lt;b&gt;');
  });
});

describe('maths', () => {
  it.each(['$x^2$', '\\(x^2\\)', '$$x^2$$', '\\[x^2\\]', '$$\nx^2\n$$', '\\[\nx^2\n\\]', '- item $x^2$'])(
    'reads %s',
    (source) => expect(render(source)).toContain('<msup><mi>x</mi><mn>2</mn></msup>'),
  );

  it('centres displays', () => {
    expect(render('$$\nx\n$$')).toContain('math-display');
    expect(render('$x$')).not.toContain('math-display');
  });

  it.each(['It costs $5 and $10.', 'a $ b $ c', '`$x$`', 'a \\$x$ b', '```\n$x$\n```'])(
    'leaves %s alone',
    (source) => expect(render(source)).not.toContain('<math'),
  );

  it('shows the source of what is not finished or not TeX', () => {
    expect(render('$$\nx +')).toContain('math-source');
    expect(render('$\\nonsense$')).toContain('nonsense');
  });
});

describe('growing text', () => {
  const source = [
    '# Title\n\nSome **bold** words\non two lines.\n\n- one\n- two\n\n  - nested\n\n1. first\n2. second\n\n',
    '```js\nlet x = 1;\n\nlet y = 2;\n```\n\n| a | b |\n|---|--:|\n| 1 | 2 |\n\n> quote\n> more\n\n$$\na\n\n$$\n\nThe end.\n',
  ].join('');

  it('ends as if it had come at once', () => {
    const growing = new BlockRenderer(EXTRAS);
    for (let length = 1; length < source.length; length += 1) growing.render(source.slice(0, length), true);
    expect(growing.render(source, true).slice(0, -1)).toEqual(new BlockRenderer(EXTRAS).render(source, false).slice(0, -1));
    expect(growing.render(source, false)).toEqual(new BlockRenderer(EXTRAS).render(source, false));
  });

  it('starts anew when another text comes', () => {
    const renderer = new BlockRenderer(EXTRAS);
    renderer.render('one\n\ntwo\n\nthree', true);
    expect(renderer.render('four', true)).toEqual(['<p>four</p>\n']);
  });

  it('leaves settled blocks as they are', () => {
    let numCalls = 0;
    const renderer = new BlockRenderer({ highlight: () => ((numCalls += 1), null) });
    const code = '```js\nx\n```\n\n';
    renderer.render(`${code}text`, true);
    const before = numCalls;
    for (let words = 0; words < 50; words += 1) renderer.render(`${code}text${' more'.repeat(words)}`, true);
    expect(numCalls).toBe(before);
  });
});

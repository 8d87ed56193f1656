/** TeX to MathML, which needs neither fonts nor inline styles; loaded when an answer first holds maths. */

import katex from 'katex';

export function mathml(tex: string, display: boolean): string {
  return katex.renderToString(tex, { displayMode: display, output: 'mathml', throwOnError: false, maxExpand: 100 });
}

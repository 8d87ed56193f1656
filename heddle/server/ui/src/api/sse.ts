/** Server-sent events, read from a byte stream (WHATWG HTML, section 9.2.6); only `data` matters to us. */

export class EventStreamParser {
  #rest = '';
  #data: string[] = [];

  /** Take the next piece of text and return the data of every event that it completes. */
  push(text: string): string[] {
    const lines = (this.#rest + text).split(/\r\n|\n|\r(?!$)/);
    this.#rest = lines.pop() ?? '';
    const events: string[] = [];
    for (const line of lines) {
      if (line !== '') this.#readLine(line);
      else if (this.#data.length > 0) events.push(this.#data.splice(0).join('\n'));
    }
    return events;
  }

  #readLine(line: string): void {
    const colon = line.indexOf(':');
    const field = colon < 0 ? line : line.slice(0, colon);
    if (field !== 'data') return;
    this.#data.push(colon < 0 ? '' : line.slice(colon + 1).replace(/^ /, ''));
  }
}

/** Yield the data of each event of a response body. */
export async function* readEvents(body: ReadableStream<Uint8Array>): AsyncGenerator<string> {
  const parser = new EventStreamParser();
  const decoder = new TextDecoder();
  for await (const bytes of body) yield* parser.push(decoder.decode(bytes, { stream: true }));
}

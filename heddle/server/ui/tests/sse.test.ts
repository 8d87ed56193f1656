import { describe, expect, it } from 'vitest';

import { EventStreamParser, readEvents } from '../src/api/sse';

describe('EventStreamParser', () => {
  it('reads events whatever way they are cut', () => {
    const stream = ': comment\r\ndata: {"a":1}\r\n\r\nevent: x\ndata: one\ndata:two\n\ndata: [DONE]\r\r';
    for (let size = 1; size <= stream.length; size += 1) {
      const parser = new EventStreamParser();
      const events: string[] = [];
      for (let at = 0; at < stream.length; at += size) events.push(...parser.push(stream.slice(at, at + size)));
      // A closing CR may be half of a CRLF: it ends the event once something follows.
      events.push(...parser.push('\n'));
      expect(events, `pieces of ${size}`).toEqual(['{"a":1}', 'one\ntwo', '[DONE]']);
    }
  });

  it('gives nothing for comments and for an unfinished event', () => {
    const parser = new EventStreamParser();
    expect(parser.push(': keep-alive\n\n')).toEqual([]);
    expect(parser.push('data: half')).toEqual([]);
    expect(parser.push(' done\n\n')).toEqual(['half done']);
  });
});

describe('readEvents', () => {
  it('joins characters whose bytes come apart', async () => {
    const bytes = new TextEncoder().encode('data: Größe 🧵\n\n');
    const body = new ReadableStream<Uint8Array>({
      start(controller) {
        bytes.forEach((byte) => controller.enqueue(new Uint8Array([byte])));
        controller.close();
      },
    });
    const events: string[] = [];
    for await (const event of readEvents(body)) events.push(event);
    expect(events).toEqual(['Größe 🧵']);
  });
});

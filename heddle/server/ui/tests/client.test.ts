import { createServer, type RequestListener, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';

import { afterEach, describe, expect, it } from 'vitest';

import { listModels, streamChat } from '../src/api/client';
import type { ChatRequest } from '../src/api/types';

// A real server on a free port; the page's relative addresses are resolved against it.
const REQUEST: ChatRequest = {
  model: 'tiny',
  messages: [{ role: 'user', content: 'Why?' }],
  stream: true,
  stream_options: { include_usage: true },
  temperature: 0,
  top_p: 1,
};
let server: Server;
const browserFetch = globalThis.fetch;

async function serve(listener: RequestListener): Promise<void> {
  server = createServer(listener).listen(0, '127.0.0.1');
  await new Promise((resolve) => server.once('listening', resolve));
  const { port } = server.address() as AddressInfo;
  globalThis.fetch = (path, init) => browserFetch(`http://127.0.0.1:${port}/${String(path)}`, init);
}

afterEach(() => {
  globalThis.fetch = browserFetch;
  server.closeAllConnections();
  server.close();
});

async function collect(): Promise<string> {
  let text = '';
  for await (const chunk of streamChat(REQUEST, 'key', new AbortController().signal)) {
    text += chunk.choices?.[0]?.delta.content ?? '';
  }
  return text;
}

const event = (content: string) => `data: ${JSON.stringify({ choices: [{ delta: { content } }] })}\n\n`;

describe('streamChat', () => {
  it('sends the key and yields chunks up to [DONE]', async () => {
    await serve((request, response) => {
      response.end(event(request.headers.authorization!) + 'data: [DONE]\n\n');
    });
    expect(await collect()).toBe('Bearer key');
  });

  it('says so when the stream ends too early', async () => {
    await serve((_request, response) => response.end(event('half')));
    await expect(collect()).rejects.toMatchObject({ kind: 'away', message: expect.stringContaining('broke') });
  });

  it('says so when the connection is cut', async () => {
    await serve((_request, response) => response.write(event('half'), () => response.destroy()));
    await expect(collect()).rejects.toMatchObject({ kind: 'away' });
  });

  it('passes on an error inside the stream', async () => {
    await serve((_request, response) => response.end('data: {"error":{"message":"Out of memory."}}\n\n'));
    await expect(collect()).rejects.toMatchObject({ kind: 'server', message: 'Out of memory.' });
  });
});

describe('refusals', () => {
  it.each([
    [401, 'key'],
    [429, 'busy'],
    [503, 'busy'],
    [400, 'request'],
    [500, 'server'],
    [502, 'away'],
  ])('maps %i to %s', async (status, kind) => {
    await serve((_request, response) => {
      response.writeHead(status, { 'retry-after': '3' }).end('{"error":{"message":"No."}}');
    });
    await expect(listModels('')).rejects.toMatchObject({ kind, message: 'No.', retryAfterS: 3 });
  });

  it('reports a server that is not there', async () => {
    await serve(() => undefined);
    server.close();
    server.closeAllConnections();
    await expect(listModels('')).rejects.toMatchObject({ kind: 'away' });
  });
});

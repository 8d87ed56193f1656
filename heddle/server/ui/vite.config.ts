import { svelte } from '@sveltejs/vite-plugin-svelte';
import { defineConfig } from 'vitest/config';

const SERVER = 'http://127.0.0.1:8000';

export default defineConfig({
  base: './',
  plugins: [svelte()],
  // No inlined assets and no polyfill: the page must work under `script-src 'self'`.
  build: { target: 'es2023', assetsInlineLimit: 0, modulePreload: { polyfill: false } },
  server: { proxy: { '/v1': SERVER, '/ready': SERVER } },
  test: { include: ['tests/**/*.test.ts'] },
});

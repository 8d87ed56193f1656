// Runs before the first paint, so that a chosen theme does not flash: `state/settings.svelte.ts` writes the key.
document.documentElement.dataset.theme = localStorage.getItem('heddle.theme') ?? 'system';

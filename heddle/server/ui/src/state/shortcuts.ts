/** Keys that work anywhere on the page. */

export type Shortcut = 'new' | 'search' | 'settings' | 'help' | 'stop' | 'write';

export const SHORTCUTS: { keys: string[]; does: string }[] = [
  { keys: ['Enter'], does: 'Send the message' },
  { keys: ['Shift', 'Enter'], does: 'Start a new line' },
  { keys: ['Esc'], does: 'Stop the answer' },
  { keys: ['Ctrl', 'K'], does: 'Search the conversations' },
  { keys: ['Ctrl', 'Shift', 'O'], does: 'Start a new conversation' },
  { keys: ['Ctrl', ','], does: 'Open the settings' },
  { keys: ['/'], does: 'Go to the message field' },
  { keys: ['?'], does: 'Show this help' },
];

export function shortcutOf(event: KeyboardEvent): Shortcut | undefined {
  const isTyping = (event.target as Element).matches('input, textarea, select');
  const key = event.key.toLowerCase();
  if (event.ctrlKey || event.metaKey) {
    if (key === 'k') return 'search';
    if (key === 'o' && event.shiftKey) return 'new';
    return key === ',' ? 'settings' : undefined;
  }
  if (key === 'escape') return 'stop';
  if (isTyping) return undefined;
  if (key === '?') return 'help';
  return key === '/' ? 'write' : undefined;
}

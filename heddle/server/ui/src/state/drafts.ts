/** Typed but unsent text, one draft a conversation, saved on each keystroke. */

const PREFIX = 'heddle.draft.';
const NEW = 'new';

export function readDraft(conversationId: string | undefined): string {
  return localStorage.getItem(PREFIX + (conversationId ?? NEW)) ?? '';
}

export function saveDraft(conversationId: string | undefined, text: string): void {
  if (text) localStorage.setItem(PREFIX + (conversationId ?? NEW), text);
  else forgetDraft(conversationId);
}

export function forgetDraft(conversationId: string | undefined): void {
  localStorage.removeItem(PREFIX + (conversationId ?? NEW));
}

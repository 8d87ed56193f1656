/** Conversations under the headings of the list. */

import type { Conversation } from './types';

const DAY_MS = 86_400_000;
const GROUPS = [
  { label: 'Today', days: 0 },
  { label: 'Yesterday', days: 1 },
  { label: 'Last seven days', days: 7 },
  { label: 'Last thirty days', days: 30 },
  { label: 'Older', days: Infinity },
];

export function groupByAge(
  conversations: Conversation[],
  nowMs: number,
): { label: string; conversations: Conversation[] }[] {
  const midnight = new Date(nowMs).setHours(0, 0, 0, 0);
  const labelOf = ({ updatedAt }: Conversation) => {
    const days = Math.ceil((midnight - updatedAt) / DAY_MS);
    return GROUPS.find((group) => days <= group.days)!.label;
  };
  return GROUPS.map(({ label }) => ({
    label,
    conversations: conversations.filter((conversation) => labelOf(conversation) === label),
  })).filter((group) => group.conversations.length > 0);
}

import { expect, it } from 'vitest';

import { groupByAge } from '../src/chat/groups';
import { newConversation } from '../src/chat/tree';

it('puts conversations under the day of their last change', () => {
  const at = (date: string) => ({ ...newConversation(date, ''), updatedAt: new Date(date).getTime() });
  const dates = ['2026-05-20T00:01', '2026-05-19T23:59', '2026-05-13T12:00', '2026-05-01T12:00', '2020-01-01T00:00'];
  const groups = groupByAge(dates.map(at), new Date('2026-05-20T12:00').getTime());
  expect(groups.map(({ label, conversations }) => [label, conversations.map(({ title }) => title)])).toEqual([
    ['Today', [dates[0]]],
    ['Yesterday', [dates[1]]],
    ['Last seven days', [dates[2]]],
    ['Last thirty days', [dates[3]]],
    ['Older', [dates[4]]],
  ]);
});

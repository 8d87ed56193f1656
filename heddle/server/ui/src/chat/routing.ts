/** How an answer's tokens are coloured: by how deep each one thought, or by the cluster that weighed most in it. */

import type { TokenRoute } from '../api/types';

export type Colour = 'none' | 'depth' | 'clusters';

export interface Level {
  /** Of the CSS class, from 0 on. */
  index: number;
  label: string;
  numTokens: number;
}

/** Steps of the depth scale: a level ends at each of these. */
const DEPTH_ENDS = [1, 3, 7, 15, Infinity];
const DEPTH_LABELS = ['1 loop', '2–3', '4–7', '8–15', '16 or more'];

/** Return each token's level: its step of the depth scale, or its heaviest cluster's place in `clusters`. */
export function levelOf(route: TokenRoute, colour: Colour, clusters: string[]): number {
  if (colour === 'depth') return DEPTH_ENDS.findIndex((end) => route.loops <= end);
  return clusters.indexOf(heaviest(route));
}

/** Return the whole scale, with how many tokens stand at each level. */
export function legend(routing: TokenRoute[], colour: Colour): Level[] {
  const clusters = clustersOf(routing);
  const labels = colour === 'depth' ? DEPTH_LABELS : clusters;
  const levels = labels.map((label, index) => ({ index, label, numTokens: 0 }));
  for (const route of routing) levels[levelOf(route, colour, clusters)]!.numTokens += 1;
  return levels;
}

/** Return what a token's tooltip says. */
export function describe(route: TokenRoute): string {
  const depth = `${route.loops} ${route.loops === 1 ? 'loop' : 'loops'}`;
  const shares = Object.entries(route.clusters)
    .sort(([, a], [, b]) => b - a)
    .map(([name, share]) => `${name} ${Math.round(100 * share)}%`);
  return [depth, ...shares].join(' · ');
}

export function clustersOf(routing: TokenRoute[]): string[] {
  return Object.keys(routing[0]?.clusters ?? {});
}

function heaviest({ clusters }: TokenRoute): string {
  return Object.keys(clusters).reduce((a, b) => (clusters[b]! > clusters[a]! ? b : a));
}

/** Return FLOPs in the unit that leaves one to three digits. */
export function readableFlops(flops: number): string {
  const units = ['FLOP', 'kFLOP', 'MFLOP', 'GFLOP', 'TFLOP', 'PFLOP', 'EFLOP'];
  const step = Math.min(Math.max(0, Math.floor(Math.log10(Math.max(flops, 1)) / 3)), units.length - 1);
  return `${Number((flops / 1000 ** step).toPrecision(3))} ${units[step]}`;
}

// How a step's work is shared out over threads.
#pragma once

#include "pool.h"

namespace heddle {

constexpr int kFewRows = 8;  // rows that are not worth sharing out one by one

// Call `work(row)` for each row.
template <class Work>
void each_row(Pool& pool, int num, const Work& work) {
  if (num < kFewRows) {
    for (int t = 0; t < num; ++t) work(t);
    return;
  }
  const int pieces = std::min(num, 4 * pool.num_threads());
  pool.run(pieces, [&](int i) {
    for (int t = num * i / pieces; t < num * (i + 1) / pieces; ++t) work(t);
  });
}

// How many pieces a product with so many rows is worth, of so many units at most.
inline int pieces_of(const Pool& pool, int units, int num) {
  return std::min(units, (num > 1 ? 8 : 4) * pool.num_threads());
}

// Call `work(first, end)` for pieces of all units; before them, `early(0)` to `early(num_early - 1)`.
template <class Work, class Early>
void split(Pool& pool, int units, int num, const Work& work, int num_early, const Early& early) {
  const int pieces = pieces_of(pool, units, num);
  pool.run(num_early + pieces, [&](int i) {
    if (i < num_early) return early(i);
    i -= num_early;
    work(units * i / pieces, units * (i + 1) / pieces);
  });
}

template <class Work>
void split(Pool& pool, int units, int num, const Work& work) {
  split(pool, units, num, work, 0, [](int) {});
}

}  // namespace heddle

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

// Units of work, cut into pieces that become smaller: who is late then has little left to wait for.
class Pieces {
 public:
  Pieces(int units, int num_threads) {
    const int least = std::max({1, units / (12 * num_threads), units / kMost});
    for (int begun = 0; begun < units; ++num_) {
      first_[num_] = begun;
      begun += std::min(units - begun, std::max(least, (units - begun) / (2 * num_threads)));
    }
    first_[num_] = units;
  }
  int num() const { return num_; }
  int first(int i) const { return first_[i]; }
  int end(int i) const { return first_[i + 1]; }

 private:
  static constexpr int kMost = 256;
  int num_ = 0, first_[2 * kMost + 2];
};

// Call `work(first, end)` for pieces of all units; before them, `early(0)` to `early(num_early - 1)`.
template <class Work, class Early>
void split(Pool& pool, int units, const Work& work, int num_early, const Early& early) {
  const Pieces pieces(units, pool.num_threads());
  pool.run(num_early + pieces.num(), [&](int i) {
    if (i < num_early) return early(i);
    work(pieces.first(i - num_early), pieces.end(i - num_early));
  });
}

template <class Work>
void split(Pool& pool, int units, const Work& work) {
  split(pool, units, work, 0, [](int) {});
}

}  // namespace heddle

// Products of packed matrices with rows of activations.
//
// A product of a group is exact in integers; groups are added up in float32, in order. What a panel
// is to an instruction set, and its products with some rows, is in the file of that set.
#pragma once

#include <algorithm>

#if defined(HEDDLE_PORTABLE)
#include "dot_portable.h"
#elif defined(__AVX512VNNI__)
#include "dot_avx512.h"
#elif defined(__AVX2__)
#include "dot_avx2.h"
#elif defined(__aarch64__)
#include "dot_neon.h"
#else
#include "dot_portable.h"
#endif

namespace heddle {

// What may be added to a product: another matrix of as many rows, times other activations.
struct Added {
  const Matrix* m;  // or null
  Rounded x;
};

// How many rows a panel meets at once: what they have in 1,536 columns is near the first cache's size.
constexpr int kTile = 8;

// Add a panel's products with some rows of activations to `acc`; `kCount` is how many, or 0 where
// that is not known before.
template <int kCount>
inline void add_products(const Matrix& m, int panel, const Rounded& x, int count, bool is_first,
                         Panel* acc) {
  if (kCount) count = kCount;
  if (m.kind == kNibbles) dot_nibbles(m.panel(panel), x, count, is_first, acc);
  else dot_bytes(m.panel(panel), x, count, acc);
}

// Hand `write(t, panel, 16 floats)` the products of panels `first` to `end` - 1 with `count` rows of x,
// kTile at most, from `t` on.
template <class Write>
inline void multiply_tile(const Matrix& m, const Rounded& x, int t, int count, int first, int end,
                          const Write& write, const Added& added = {}) {
  alignas(64) float out[kPanel];
  for (int p = first; p < end; ++p) {
    Panel acc[kTile];
    for (int n = 0; n < count; ++n) acc[n] = panel_zero();
    const auto add = [&](const Matrix& m, const Rounded& x) {
      if (count == 1) add_products<1>(m, p, x.row(t), count, t == 0, acc);
      else add_products<0>(m, p, x.row(t), count, t == 0, acc);
    };
    add(m, x);
    if (added.m) add(*added.m, added.x);
    for (int n = 0; n < count; ++n) {
      panel_store(out, acc[n]);
      write(t + n, p, out);
    }
  }
}

// The same with all rows of x.
template <class Write>
inline void multiply(const Matrix& m, const Rounded& x, int num_rows, int first, int end,
                     const Write& write, const Added& added = {}) {
  for (int t = 0; t < num_rows; t += kTile)
    multiply_tile(m, x, t, std::min(kTile, num_rows - t), first, end, write, added);
}

}  // namespace heddle

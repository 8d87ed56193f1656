// Products of packed matrices with rows of activations.
//
// A product of a group is exact in integers; groups are added up in float32, in order. What a panel
// is to an instruction set, and its products with N rows, is in the file of that set.
#pragma once

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

template <int N>
inline void add_products(const Matrix& m, int panel, const Rounded* x, bool is_first, Panel* acc) {
  if (m.kind == kNibbles) dot_nibbles<N>(m.panel(panel), m.groups(), x, is_first, acc);
  else dot_bytes<N>(m.panel(panel), m.groups(), x, acc);
}

template <int N>
inline void dot(const Matrix& m, const Rounded& x, const Added& added, int panel, int first,
                float (*out)[kPanel]) {
  Rounded rows[N];
  Panel acc[N];
  for (int n = 0; n < N; ++n) acc[n] = panel_zero(), rows[n] = x.plane(first + n);
  add_products<N>(m, panel, rows, first == 0, acc);
  if (added.m) {
    for (int n = 0; n < N; ++n) rows[n] = added.x.plane(first + n);
    add_products<N>(*added.m, panel, rows, first == 0, acc);
  }
  for (int n = 0; n < N; ++n) panel_store(out[n], acc[n]);
}

constexpr int kTile = 4;  // rows of int8 that a panel meets at once

// Hand `write(t, panel, 16 floats)` the products of panels `first` to `end` - 1 with all rows of x.
template <class Write>
inline void multiply(const Matrix& m, const Rounded& x, int num_rows, int first, int end,
                     const Write& write, const Added& added = {}) {
  const int num_planes = num_rows * x.planes;
  float out[kTile][kPanel];
  for (int p = first; p < end; ++p)
    for (int i = 0; i < num_planes;) {
      const int count = num_planes - i >= kTile ? kTile : x.planes;
      if (count == kTile) dot<kTile>(m, x, added, p, i, out);
      else if (count == 2) dot<2>(m, x, added, p, i, out);
      else dot<1>(m, x, added, p, i, out);
      for (int n = 0; n < count; n += x.planes) {
        if (x.planes == 2)
          for (int r = 0; r < kPanel; ++r) out[n][r] += out[n + 1][r];
        write((i + n) / x.planes, p, out[n]);
      }
      i += count;
    }
}

}  // namespace heddle

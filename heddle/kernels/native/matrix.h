// Packed matrices and rows of activations.
//
// A matrix is kept in panels of 16 rows and groups of 32 columns, each group with its own scales:
// what a block of GGUF's Q4_0, Q4_1 and Q8_0 holds, in another order
// (https://github.com/ggml-org/llama.cpp, ggml-common.h). Activations are rounded to int8 by groups
// of 32. `product.h` multiplies them.
//
//   kNibbles: w = scale * q + offset, q from 0 to 15.   256 bytes, then 16 scales, 16 offsets
//   kBytes:   w = scale * q, q from -128 to 127.        512 bytes, then 16 scales
//
// Scales and offsets are float16. The bytes of a group lie by chunks of 4 columns, in each the 16
// rows: chunk c of kNibbles has columns 4c to 4c + 3 in its lower halves and those 16 further in
// the upper ones.
#pragma once

#include <cstdint>
#include <cstring>

#include "simd.h"

namespace heddle {

constexpr int kPanel = 16, kGroup = 32;
constexpr int kPlanes = 2;  // of activations; one costs a KL of 2.6e-3 and changes answers
enum Kind : int32_t { kNibbles = 0, kBytes = 1 };

struct Matrix {
  int32_t rows, cols;  // columns a multiple of 32; rows are filled up to panels
  int32_t kind, reserved;
  const uint8_t* data;
  const float* bias;  // or null

  int panels() const { return (rows + kPanel - 1) / kPanel; }
  int groups() const { return cols / kGroup; }
  static constexpr int group_bytes(int kind) { return kind == kNibbles ? 256 + 64 : 512 + 32; }
  const uint8_t* panel(int i) const {
    return data + (size_t)i * groups() * group_bytes(kind);
  }
  size_t bytes() const { return panel(panels()) - data; }
};

// Ask for the nibbles that are met a dozen groups further on. A group is small and its product
// short: without this a processor has too few of them under way to fill memory's delay.
inline void prefetch_nibbles(const uint8_t* group) {
  constexpr int kSize = Matrix::group_bytes(kNibbles);
  prefetch_once<kSize>(group + 12 * kSize);
}

// Rows of activations in int8: value = scale * q. `sum` is the sum of a group's q. With two planes
// a row is followed by what rounding left of it, rounded: together they have 15 bits.
struct Rounded {
  int8_t* q;
  float* scale;
  int32_t* sum;
  int cols, planes;

  int groups() const { return cols / kGroup; }
  Rounded plane(int i) const {
    return {q + (size_t)i * cols, scale + (size_t)i * groups(), sum + (size_t)i * groups(), cols, 1};
  }
  Rounded row(int t) const {
    Rounded first = plane(t * planes);
    first.planes = planes;
    return first;
  }
};

inline void round_plane(const float* x, const Rounded& to, int g) {
  Vec top{}, probe{};
  for (int i = 0; i < kGroup; i += kLanes) {
    Vec v = load(x + i);
    top = max(top, max(v, -v));
    probe += v * 0.0f;
  }
  int8_t* q = to.q + g * kGroup;
  float scale = largest(top) / 127.0f, bad = sum(probe);
  if (bad != bad || !(scale > 1e-30f)) {  // NaN and infinity show in the scale; nothing is nothing
    std::memset(q, 0, kGroup);
    to.scale[g] = bad;
    to.sum[g] = 0;
    return;
  }
  const float inverse = 1.0f / scale, shift = 12582912.0f;  // see `exp`
  int32_t total = 0;
  for (int i = 0; i < kGroup; ++i) {
    int32_t value = (int32_t)(x[i] * inverse + shift - shift);
    q[i] = (int8_t)value;
    total += value;
  }
  to.scale[g] = scale;
  to.sum[g] = total;
}

inline void round_group(const float* x, const Rounded& to, int g) {
  round_plane(x, to, g);
  if (to.planes == 1) return;
  float left[kGroup];
  for (int i = 0; i < kGroup; ++i) left[i] = x[i] - to.scale[g] * (float)to.q[g * kGroup + i];
  round_plane(left, to.plane(1), g);
}

inline void round_row(const float* x, const Rounded& to) {
  for (int g = 0; g < to.groups(); ++g) round_group(x + g * kGroup, to, g);
}

}  // namespace heddle

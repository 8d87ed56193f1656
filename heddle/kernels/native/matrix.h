// Packed matrices and rows of activations.
//
// A matrix is kept in panels of 16 rows and groups of 32 columns, each group with its own scales:
// what a block of GGUF's Q4_0, Q4_1 and Q8_0 holds, in another order
// (https://github.com/ggml-org/llama.cpp, ggml-common.h). Activations are rounded to 16 bits by
// groups of 32. `product.h` multiplies them.
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

// Rows of activations in fixed point: value = scale * (256 * high + low), both parts from -127 to 127,
// so that they are multiplied as bytes. High parts alone cost a KL of 2.6e-3 and change answers.
struct Rounded {
  static constexpr int kBytes = 2 * kGroup;  // of a group: its high parts, then its low ones
  static constexpr int kSteps = 127 * 256;   // the largest number of a group has so many

  int8_t* q;
  float* scale;
  int32_t* sum;  // of a group's steps
  float* total;  // scale * sum
  int cols;

  int groups() const { return cols / kGroup; }
  Rounded row(int t) const {
    const size_t at = (size_t)t * groups();
    return {q + at * kBytes, scale + at, sum + at, total + at, cols};
  }
};

inline void round_group(const float* x, const Rounded& to, int g) {
  VecI top{};
  for (int i = 0; i < kGroup; i += kLanes) {
    const VecI size = (VecI)load(x + i) & 0x7fffffff;  // ordered as the numbers are; NaN is last
    top = top > size ? top : size;
  }
  int8_t* q = to.q + (size_t)g * Rounded::kBytes;
  const float largest = from_bits(joined(top, [](auto a, auto b) { return a > b ? a : b; }));
  const float scale = largest / Rounded::kSteps;
  if (!(scale > 1e-30f) || !(largest < INFINITY)) {  // nothing is nothing; else the scale shows it
    std::memset(q, 0, Rounded::kBytes);
    to.scale[g] = to.total[g] = largest - largest;
    to.sum[g] = 0;
    return;
  }
  const Vec inverse = all(1.0f / scale), shift = all(12582912.0f);  // see `exp`
  VecI sums{};
  for (int i = 0; i < kGroup; i += kLanes) {
    const VecI steps = __builtin_convertvector(fma(load(x + i), inverse, shift) - shift, VecI);
    const VecI high = (steps + 128) >> 8;
    VecI low = steps - high * 256;
    low = low > -127 ? low : -127;  // -128 has no opposite, and its products need one more bit
    store_bytes(q + i, high), store_bytes(q + kGroup + i, low);
    sums += high * 256 + low;
  }
  to.scale[g] = scale;
  to.sum[g] = joined(sums, [](auto a, auto b) { return a + b; });
  to.total[g] = scale * (float)to.sum[g];
}

inline void copy_row(const Rounded& from, const Rounded& to) {
  std::memcpy(to.q, from.q, (size_t)from.groups() * Rounded::kBytes);
  std::memcpy(to.scale, from.scale, sizeof(float) * from.groups());
  std::memcpy(to.sum, from.sum, sizeof(int32_t) * from.groups());
  std::memcpy(to.total, from.total, sizeof(float) * from.groups());
}

inline void round_row(const float* x, const Rounded& to) {
  for (int g = 0; g < to.groups(); ++g) round_group(x + g * kGroup, to, g);
}

}  // namespace heddle

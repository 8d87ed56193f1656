// A panel's products in plain loops: what the other builds are tested against. See `product.h`.
#pragma once

#include "matrix.h"

namespace heddle {

struct Panel {
  float row[kPanel];
};

inline Panel panel_zero() { return {}; }
inline void panel_store(float* to, Panel p) { std::memcpy(to, p.row, sizeof p.row); }

inline void add_group(const int32_t* product, const uint8_t* scales, const uint8_t* offsets,
                      float scale, float total, Panel& acc) {
  for (int r = 0; r < kPanel; ++r) {
    uint16_t half;
    std::memcpy(&half, scales + 2 * r, 2);
    acc.row[r] = std::fma((float)product[r], half_to_float(half) * scale, acc.row[r]);
    if (!offsets) continue;
    std::memcpy(&half, offsets + 2 * r, 2);
    acc.row[r] = std::fma(half_to_float(half), total, acc.row[r]);
  }
}

// A group's activations in steps.
inline void steps(const Rounded& x, int at, int32_t* to) {
  const int8_t* q = x.q + (size_t)at * Rounded::kBytes;
  for (int i = 0; i < kGroup; ++i) to[i] = 256 * q[i] + q[kGroup + i];
}

inline void dot_nibbles(const uint8_t* w, const Rounded& x, int count, bool, Panel* acc) {
  for (int g = 0; g < x.groups(); ++g, w += Matrix::group_bytes(kNibbles)) {
    for (int n = 0, at = g; n < count; ++n, at += x.groups()) {
      int32_t q[kGroup], product[kPanel] = {};
      steps(x, at, q);
      for (int c = 0; c < 4; ++c)
        for (int r = 0; r < kPanel; ++r)
          for (int i = 0; i < 4; ++i) {
            uint8_t both = w[64 * c + 4 * r + i];
            product[r] += (both & 15) * q[4 * c + i] + (both >> 4) * q[16 + 4 * c + i];
          }
      add_group(product, w + 256, w + 288, x.scale[at], x.total[at], acc[n]);
    }
  }
}

inline void dot_bytes(const uint8_t* w, const Rounded& x, int count, Panel* acc) {
  for (int g = 0; g < x.groups(); ++g, w += Matrix::group_bytes(kBytes)) {
    for (int n = 0, at = g; n < count; ++n, at += x.groups()) {
      int32_t q[kGroup], product[kPanel] = {};
      steps(x, at, q);
      for (int c = 0; c < 8; ++c)
        for (int r = 0; r < kPanel; ++r)
          for (int i = 0; i < 4; ++i)
            product[r] += (int8_t)w[64 * c + 4 * r + i] * q[4 * c + i];
      add_group(product, w + 512, nullptr, x.scale[at], 0, acc[n]);
    }
  }
}

}  // namespace heddle

// A panel's products on AArch64: with dot product instructions where a build may use them, else
// with NEON's multiplications of bytes. See `product.h`.
#pragma once

#include "matrix.h"

namespace heddle {

constexpr int kQuarters = 4;  // of a panel, four rows each

struct Panel {
  float32x4_t quarter[kQuarters];
};

inline Panel panel_zero() {
  const float32x4_t zero = vdupq_n_f32(0);
  return {{zero, zero, zero, zero}};
}
inline void panel_store(float* to, Panel p) {
  for (int i = 0; i < kQuarters; ++i) vst1q_f32(to + 4 * i, p.quarter[i]);
}
inline float32x4_t halves(const uint8_t* from) {
  return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(from)));
}

// Sums of four rows' products with four columns each. Bytes are multiplied with activations of at
// most 127, in pieces of so few that no sum leaves its integer.
#if defined(__ARM_FEATURE_DOTPROD)

struct Sums {
  int32x4_t rows = vdupq_n_s32(0);

  template <int kFour>
  void add(int8x16_t w, int8x16_t x) {
    rows = vdotq_laneq_s32(rows, w, x, kFour);
  }
  void carry() {}
  int32x4_t total() const { return rows; }
};

#else

// `low` has the products of the first two rows, `high` of the others: at most eight of nibbles,
// 8 * 15 * 127 and in pairs twice that, or two of bytes, 2 * 128 * 127, before `carry`.
struct Sums {
  int16x8_t low = vdupq_n_s16(0), high = low;
  int32x4_t wide_low = vdupq_n_s32(0), wide_high = wide_low;

  template <int kFour>
  void add(int8x16_t w, int8x16_t x) {
    const int8x8_t four = vreinterpret_s8_s32(vdup_laneq_s32(vreinterpretq_s32_s8(x), kFour));
    low = vmlal_s8(low, vget_low_s8(w), four);
    high = vmlal_s8(high, vget_high_s8(w), four);
  }
  void carry() {
    wide_low = vpadalq_s16(wide_low, low), wide_high = vpadalq_s16(wide_high, high);
    low = high = vdupq_n_s16(0);
  }
  int32x4_t total() {
    carry();
    return vpaddq_s32(wide_low, wide_high);
  }
};

#endif

// Exact products of sums of high parts and of low ones.
inline float32x4_t combined(Sums& high, Sums& low) {
  return vcvtq_f32_s32(vaddq_s32(low.total(), vshlq_n_s32(high.total(), 8)));
}

inline void add_nibbles(const int8x16_t* low, const int8x16_t* high, const int8_t* q, Sums& sums) {
  const int8x16_t first = vld1q_s8(q), second = vld1q_s8(q + 16);
  sums.add<0>(low[0], first), sums.add<0>(high[0], second);
  sums.add<1>(low[1], first), sums.add<1>(high[1], second);
  sums.add<2>(low[2], first), sums.add<2>(high[2], second);
  sums.add<3>(low[3], first), sums.add<3>(high[3], second);
}

inline void add_bytes(const int8x16_t* chunk, const int8_t* q, Sums& sums) {
  const int8x16_t first = vld1q_s8(q), second = vld1q_s8(q + 16);
  sums.add<0>(chunk[0], first), sums.add<1>(chunk[1], first), sums.carry();
  sums.add<2>(chunk[2], first), sums.add<3>(chunk[3], first), sums.carry();
  sums.add<0>(chunk[4], second), sums.add<1>(chunk[5], second), sums.carry();
  sums.add<2>(chunk[6], second), sums.add<3>(chunk[7], second);
}

// Add a panel's products with `count` rows of activations, one row's panel each, to `acc`.
inline void dot_nibbles(const uint8_t* w, const Rounded& x, int count, bool, Panel* acc) {
  const uint8x16_t mask = vdupq_n_u8(15);
  for (int g = 0; g < x.groups(); ++g, w += Matrix::group_bytes(kNibbles))
    for (int r = 0; r < kQuarters; ++r) {
      int8x16_t low[4], high[4];
      for (int c = 0; c < 4; ++c) {
        const uint8x16_t both = vld1q_u8(w + 64 * c + 16 * r);
        low[c] = vreinterpretq_s8_u8(vandq_u8(both, mask));
        high[c] = vreinterpretq_s8_u8(vshrq_n_u8(both, 4));
      }
      const float32x4_t scale = halves(w + 256 + 8 * r), offset = halves(w + 288 + 8 * r);
      for (int n = 0, at = g; n < count; ++n, at += x.groups()) {
        const int8_t* q = x.q + (size_t)at * Rounded::kBytes;
        Sums sums[2];
        for (int part = 0; part < 2; ++part) add_nibbles(low, high, q + kGroup * part, sums[part]);
        float32x4_t& to = acc[n].quarter[r];
        to = vfmaq_f32(to, combined(sums[0], sums[1]), vmulq_n_f32(scale, x.scale[at]));
        to = vfmaq_n_f32(to, offset, x.total[at]);
      }
    }
}

inline void dot_bytes(const uint8_t* w, const Rounded& x, int count, Panel* acc) {
  for (int g = 0; g < x.groups(); ++g, w += Matrix::group_bytes(kBytes))
    for (int r = 0; r < kQuarters; ++r) {
      int8x16_t chunk[8];
      for (int c = 0; c < 8; ++c) chunk[c] = vreinterpretq_s8_u8(vld1q_u8(w + 64 * c + 16 * r));
      const float32x4_t scale = halves(w + 512 + 8 * r);
      for (int n = 0, at = g; n < count; ++n, at += x.groups()) {
        const int8_t* q = x.q + (size_t)at * Rounded::kBytes;
        Sums sums[2];
        for (int part = 0; part < 2; ++part) add_bytes(chunk, q + kGroup * part, sums[part]);
        float32x4_t& to = acc[n].quarter[r];
        to = vfmaq_f32(to, combined(sums[0], sums[1]), vmulq_n_f32(scale, x.scale[at]));
      }
    }
}

}  // namespace heddle

// A panel's products with AVX-512 and VNNI. See `product.h`.
#pragma once

#include "matrix.h"

namespace heddle {

typedef __m512 Panel;  // one float for each row of a panel

inline Panel panel_zero() { return _mm512_setzero_ps(); }
inline void panel_store(float* to, Panel p) { _mm512_storeu_ps(to, p); }
inline __m512i four(const int8_t* q) {
  int32_t bits;
  std::memcpy(&bits, q, 4);
  return _mm512_set1_epi32(bits);
}
inline __m512 halves(const uint8_t* from) {
  return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)from));
}

// Add what a group's exact products, and its weights' offset, come to.
inline __m512 scaled(__m512i product, __m512 scale, float by, __m512 acc) {
  return _mm512_fmadd_ps(_mm512_cvtepi32_ps(product), _mm512_mul_ps(scale, _mm512_set1_ps(by)), acc);
}

// Add a panel's products with `count` rows of activations, one row's panel each, to `acc`.
__attribute__((always_inline)) inline void dot_nibbles(const uint8_t* w, const Rounded& x, int count,
                                                       bool is_first, Panel* acc) {
  const __m512i mask = _mm512_set1_epi8(15);
  const int groups = x.groups();
  for (int g = 0; g < groups; ++g, w += Matrix::group_bytes(kNibbles)) {
    if (is_first) prefetch_nibbles(w);
    __m512i weights[8];
    for (int c = 0; c < 4; ++c) {
      __m512i both = _mm512_loadu_si512(w + 64 * c);
      weights[c] = _mm512_and_si512(both, mask);
      weights[4 + c] = _mm512_and_si512(_mm512_srli_epi16(both, 4), mask);
    }
    const __m512 scale = halves(w + 256), offset = halves(w + 288);
    for (int n = 0, at = g; n < count; ++n, at += groups) {
      const int8_t* q = x.q + (size_t)at * Rounded::kBytes;
      __m512i high = _mm512_setzero_si512(), low = high;
      for (int c = 0; c < 8; ++c) {
        high = _mm512_dpbusd_epi32(high, weights[c], four(q + 4 * c));
        low = _mm512_dpbusd_epi32(low, weights[c], four(q + kGroup + 4 * c));
      }
      const __m512i product = _mm512_add_epi32(low, _mm512_slli_epi32(high, 8));
      acc[n] = _mm512_fmadd_ps(offset, _mm512_set1_ps(x.total[at]),
                               scaled(product, scale, x.scale[at], acc[n]));
    }
  }
}

__attribute__((always_inline)) inline void dot_bytes(const uint8_t* w, const Rounded& x, int count,
                                                     Panel* acc) {
  const __m512i flip = _mm512_set1_epi8((char)0x80);  // to unsigned: q + 128
  const int groups = x.groups();
  for (int g = 0; g < groups; ++g, w += Matrix::group_bytes(kBytes)) {
    __m512i weights[8];
    for (int c = 0; c < 8; ++c) weights[c] = _mm512_xor_si512(_mm512_loadu_si512(w + 64 * c), flip);
    const __m512 scale = halves(w + 512);
    for (int n = 0, at = g; n < count; ++n, at += groups) {
      const int8_t* q = x.q + (size_t)at * Rounded::kBytes;
      __m512i high = _mm512_setzero_si512(), low = _mm512_set1_epi32(-128 * x.sum[at]);
      for (int c = 0; c < 8; ++c) {
        high = _mm512_dpbusd_epi32(high, weights[c], four(q + 4 * c));
        low = _mm512_dpbusd_epi32(low, weights[c], four(q + kGroup + 4 * c));
      }
      const __m512i product = _mm512_add_epi32(low, _mm512_slli_epi32(high, 8));
      acc[n] = scaled(product, scale, x.scale[at], acc[n]);
    }
  }
}

}  // namespace heddle

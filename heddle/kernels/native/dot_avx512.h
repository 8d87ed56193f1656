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

// Add a panel's products with N rows of activations, one row's panel each, to `acc`.
template <int N>
inline void dot_nibbles(const uint8_t* w, int groups, const Rounded* x, bool is_first, Panel* acc) {
  const __m512i mask = _mm512_set1_epi8(15);
  for (int g = 0; g < groups; ++g, w += Matrix::group_bytes(kNibbles)) {
    if (is_first) prefetch_nibbles(w);
    __m512i low[4], high[4];
    for (int c = 0; c < 4; ++c) {
      __m512i both = _mm512_loadu_si512(w + 64 * c);
      low[c] = _mm512_and_si512(both, mask);
      high[c] = _mm512_and_si512(_mm512_srli_epi16(both, 4), mask);
    }
    __m512 scale = halves(w + 256), offset = halves(w + 288);
    for (int n = 0; n < N; ++n) {
      const int8_t* q = x[n].q + g * kGroup;
      __m512i a = _mm512_setzero_si512(), b = a;
      for (int c = 0; c < 4; ++c) {
        a = _mm512_dpbusd_epi32(a, low[c], four(q + 4 * c));
        b = _mm512_dpbusd_epi32(b, high[c], four(q + 16 + 4 * c));
      }
      __m512 product = _mm512_cvtepi32_ps(_mm512_add_epi32(a, b));
      float s = x[n].scale[g], total = s * (float)x[n].sum[g];
      acc[n] = _mm512_fmadd_ps(product, _mm512_mul_ps(scale, _mm512_set1_ps(s)), acc[n]);
      acc[n] = _mm512_fmadd_ps(offset, _mm512_set1_ps(total), acc[n]);
    }
  }
}

template <int N>
inline void dot_bytes(const uint8_t* w, int groups, const Rounded* x, Panel* acc) {
  const __m512i flip = _mm512_set1_epi8((char)0x80);  // to unsigned: q + 128
  for (int g = 0; g < groups; ++g, w += Matrix::group_bytes(kBytes)) {
    __m512i chunk[8];
    for (int c = 0; c < 8; ++c) chunk[c] = _mm512_xor_si512(_mm512_loadu_si512(w + 64 * c), flip);
    __m512 scale = halves(w + 512);
    for (int n = 0; n < N; ++n) {
      const int8_t* q = x[n].q + g * kGroup;
      __m512i a = _mm512_set1_epi32(-128 * x[n].sum[g]), b = _mm512_setzero_si512();
      for (int c = 0; c < 8; c += 2) {
        a = _mm512_dpbusd_epi32(a, chunk[c], four(q + 4 * c));
        b = _mm512_dpbusd_epi32(b, chunk[c + 1], four(q + 4 * c + 4));
      }
      __m512 product = _mm512_cvtepi32_ps(_mm512_add_epi32(a, b));
      acc[n] =
          _mm512_fmadd_ps(product, _mm512_mul_ps(scale, _mm512_set1_ps(x[n].scale[g])), acc[n]);
    }
  }
}

}  // namespace heddle

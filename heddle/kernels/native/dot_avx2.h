// A panel's products with AVX2. See `product.h`.
#pragma once

#include "matrix.h"

namespace heddle {

struct Panel {
  __m256 half[2];
};

inline Panel panel_zero() { return {{_mm256_setzero_ps(), _mm256_setzero_ps()}}; }
inline void panel_store(float* to, Panel p) {
  _mm256_storeu_ps(to, p.half[0]);
  _mm256_storeu_ps(to + 8, p.half[1]);
}
inline __m256i four(const int8_t* q) {
  int32_t bits;
  std::memcpy(&bits, q, 4);
  return _mm256_set1_epi32(bits);
}
inline __m256 halves(const uint8_t* from) {
  return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)from));
}

// Pairs of products are at most 2 * 15 * 127, so eight of their sums fit in 16 bits.
template <int N>
inline void dot_nibbles(const uint8_t* w, int groups, const Rounded* x, bool is_first, Panel* acc) {
  const __m256i mask = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
  for (int g = 0; g < groups; ++g, w += Matrix::group_bytes(kNibbles)) {
    if (is_first) prefetch_nibbles(w);
    for (int h = 0; h < 2; ++h) {
      __m256i low[4], high[4];
      for (int c = 0; c < 4; ++c) {
        __m256i both = _mm256_loadu_si256((const __m256i*)(w + 64 * c + 32 * h));
        low[c] = _mm256_and_si256(both, mask);
        high[c] = _mm256_and_si256(_mm256_srli_epi16(both, 4), mask);
      }
      __m256 scale = halves(w + 256 + 16 * h), offset = halves(w + 288 + 16 * h);
      for (int n = 0; n < N; ++n) {
        const int8_t* q = x[n].q + g * kGroup;
        __m256i total = _mm256_setzero_si256();
        for (int c = 0; c < 4; ++c) {
          total = _mm256_add_epi16(total, _mm256_maddubs_epi16(low[c], four(q + 4 * c)));
          total = _mm256_add_epi16(total, _mm256_maddubs_epi16(high[c], four(q + 16 + 4 * c)));
        }
        __m256 product = _mm256_cvtepi32_ps(_mm256_madd_epi16(total, ones));
        float s = x[n].scale[g], sums = s * (float)x[n].sum[g];
        __m256& to = acc[n].half[h];
        to = _mm256_fmadd_ps(product, _mm256_mul_ps(scale, _mm256_set1_ps(s)), to);
        to = _mm256_fmadd_ps(offset, _mm256_set1_ps(sums), to);
      }
    }
  }
}

// |q| times x with q's sign: at most 2 * 128 * 127, which 16 bits hold.
template <int N>
inline void dot_bytes(const uint8_t* w, int groups, const Rounded* x, Panel* acc) {
  const __m256i ones = _mm256_set1_epi16(1);
  for (int g = 0; g < groups; ++g, w += Matrix::group_bytes(kBytes)) {
    for (int h = 0; h < 2; ++h) {
      __m256i chunk[8], size[8];
      for (int c = 0; c < 8; ++c) {
        chunk[c] = _mm256_loadu_si256((const __m256i*)(w + 64 * c + 32 * h));
        size[c] = _mm256_abs_epi8(chunk[c]);
      }
      __m256 scale = halves(w + 512 + 16 * h);
      for (int n = 0; n < N; ++n) {
        const int8_t* q = x[n].q + g * kGroup;
        __m256i total = _mm256_setzero_si256();
        for (int c = 0; c < 8; ++c) {
          __m256i pairs = _mm256_maddubs_epi16(size[c], _mm256_sign_epi8(four(q + 4 * c), chunk[c]));
          total = _mm256_add_epi32(total, _mm256_madd_epi16(pairs, ones));
        }
        __m256 product = _mm256_cvtepi32_ps(total);
        __m256& to = acc[n].half[h];
        to = _mm256_fmadd_ps(product, _mm256_mul_ps(scale, _mm256_set1_ps(x[n].scale[g])), to);
      }
    }
  }
}

}  // namespace heddle

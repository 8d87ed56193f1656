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

// Exact products of eight rows: sums of 16 bits of high parts and of low ones.
inline __m256i combined(__m256i high, __m256i low) {
  return _mm256_add_epi32(_mm256_madd_epi16(high, _mm256_set1_epi16(256)),
                          _mm256_madd_epi16(low, _mm256_set1_epi16(1)));
}
inline __m256 scaled(__m256i product, __m256 scale, float by, __m256 acc) {
  return _mm256_fmadd_ps(_mm256_cvtepi32_ps(product), _mm256_mul_ps(scale, _mm256_set1_ps(by)), acc);
}

// Add a panel's products with `count` rows of activations, one row's panel each, to `acc`. Pairs of
// products are at most 2 * 15 * 127, so eight of their sums fit in 16 bits.
__attribute__((always_inline)) inline void dot_nibbles(const uint8_t* w, const Rounded& x, int count,
                                                       bool is_first, Panel* acc) {
  const __m256i mask = _mm256_set1_epi8(15);
  const int groups = x.groups();
  for (int g = 0; g < groups; ++g, w += Matrix::group_bytes(kNibbles)) {
    if (is_first) prefetch_nibbles(w);
    for (int h = 0; h < 2; ++h) {
      __m256i weights[8];
      for (int c = 0; c < 4; ++c) {
        __m256i both = _mm256_loadu_si256((const __m256i*)(w + 64 * c + 32 * h));
        weights[c] = _mm256_and_si256(both, mask);
        weights[4 + c] = _mm256_and_si256(_mm256_srli_epi16(both, 4), mask);
      }
      const __m256 scale = halves(w + 256 + 16 * h), offset = halves(w + 288 + 16 * h);
      for (int n = 0, at = g; n < count; ++n, at += groups) {
        const int8_t* q = x.q + (size_t)at * Rounded::kBytes;
        __m256i high = _mm256_setzero_si256(), low = high;
        for (int c = 0; c < 8; ++c) {
          high = _mm256_add_epi16(high, _mm256_maddubs_epi16(weights[c], four(q + 4 * c)));
          low = _mm256_add_epi16(low, _mm256_maddubs_epi16(weights[c], four(q + kGroup + 4 * c)));
        }
        __m256& to = acc[n].half[h];
        to = _mm256_fmadd_ps(offset, _mm256_set1_ps(x.total[at]),
                             scaled(combined(high, low), scale, x.scale[at], to));
      }
    }
  }
}

// |q| times x with q's sign: at most 2 * 128 * 127, which 16 bits hold.
__attribute__((always_inline)) inline void dot_bytes(const uint8_t* w, const Rounded& x, int count,
                                                     Panel* acc) {
  const int groups = x.groups();
  for (int g = 0; g < groups; ++g, w += Matrix::group_bytes(kBytes)) {
    for (int h = 0; h < 2; ++h) {
      __m256i weights[8];
      for (int c = 0; c < 8; ++c)
        weights[c] = _mm256_loadu_si256((const __m256i*)(w + 64 * c + 32 * h));
      const __m256 scale = halves(w + 512 + 16 * h);
      for (int n = 0, at = g; n < count; ++n, at += groups) {
        const int8_t* q = x.q + (size_t)at * Rounded::kBytes;
        __m256i total = _mm256_setzero_si256();
        for (int c = 0; c < 8; ++c) {
          const __m256i size = _mm256_abs_epi8(weights[c]);
          const auto pairs = [&](const int8_t* q) {
            return _mm256_maddubs_epi16(size, _mm256_sign_epi8(four(q), weights[c]));
          };
          total = _mm256_add_epi32(total, combined(pairs(q + 4 * c), pairs(q + kGroup + 4 * c)));
        }
        __m256& to = acc[n].half[h];
        to = scaled(total, scale, x.scale[at], to);
      }
    }
  }
}

}  // namespace heddle

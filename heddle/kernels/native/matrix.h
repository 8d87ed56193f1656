// Products of packed matrices with rows of activations.
//
// A matrix is kept in panels of 16 rows and groups of 32 columns, each group with its own scales:
// what a block of GGUF's Q4_0, Q4_1 and Q8_0 holds, in another order
// (https://github.com/ggml-org/llama.cpp, ggml-common.h). Activations are rounded to int8 by groups
// of 32. A product of a group is exact in integers; groups are added up in float32, in order.
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
  static int group_bytes(int kind) { return kind == kNibbles ? 256 + 64 : 512 + 32; }
  const uint8_t* panel(int i) const {
    return data + (size_t)i * groups() * group_bytes(kind);
  }
};

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

#if defined(__AVX512VNNI__)

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
inline void dot_nibbles(const uint8_t* w, int groups, const Rounded* x, Panel* acc) {
  const __m512i mask = _mm512_set1_epi8(15);
  for (int g = 0; g < groups; ++g, w += Matrix::group_bytes(kNibbles)) {
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

#elif defined(__AVX2__)

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
inline void dot_nibbles(const uint8_t* w, int groups, const Rounded* x, Panel* acc) {
  const __m256i mask = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
  for (int g = 0; g < groups; ++g, w += Matrix::group_bytes(kNibbles)) {
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

#else

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

template <int N>
inline void dot_nibbles(const uint8_t* w, int groups, const Rounded* x, Panel* acc) {
  for (int g = 0; g < groups; ++g, w += Matrix::group_bytes(kNibbles)) {
    for (int n = 0; n < N; ++n) {
      const int8_t* q = x[n].q + g * kGroup;
      int32_t product[kPanel] = {};
      for (int c = 0; c < 4; ++c)
        for (int r = 0; r < kPanel; ++r)
          for (int i = 0; i < 4; ++i) {
            uint8_t both = w[64 * c + 4 * r + i];
            product[r] += (both & 15) * q[4 * c + i] + (both >> 4) * q[16 + 4 * c + i];
          }
      float s = x[n].scale[g];
      add_group(product, w + 256, w + 288, s, s * (float)x[n].sum[g], acc[n]);
    }
  }
}

template <int N>
inline void dot_bytes(const uint8_t* w, int groups, const Rounded* x, Panel* acc) {
  for (int g = 0; g < groups; ++g, w += Matrix::group_bytes(kBytes)) {
    for (int n = 0; n < N; ++n) {
      const int8_t* q = x[n].q + g * kGroup;
      int32_t product[kPanel] = {};
      for (int c = 0; c < 8; ++c)
        for (int r = 0; r < kPanel; ++r)
          for (int i = 0; i < 4; ++i)
            product[r] += (int8_t)w[64 * c + 4 * r + i] * q[4 * c + i];
      add_group(product, w + 512, nullptr, x[n].scale[g], 0, acc[n]);
    }
  }
}

#endif

template <int N>
inline void dot(const Matrix& m, int panel, const Rounded* x, float (*out)[kPanel]) {
  Panel acc[N];
  for (int n = 0; n < N; ++n) acc[n] = panel_zero();
  if (m.kind == kNibbles) dot_nibbles<N>(m.panel(panel), m.groups(), x, acc);
  else dot_bytes<N>(m.panel(panel), m.groups(), x, acc);
  for (int n = 0; n < N; ++n) panel_store(out[n], acc[n]);
}

constexpr int kTile = 4;  // rows of int8 that a panel meets at once

// Hand `write(t, panel, 16 floats)` the products of panels `first` to `end` - 1 with all rows of x.
template <class Write>
inline void multiply(const Matrix& m, const Rounded& x, int num_rows, int first, int end,
                     const Write& write) {
  const int num_planes = num_rows * x.planes;
  float out[kTile][kPanel];
  Rounded rows[kTile];
  for (int p = first; p < end; ++p)
    for (int i = 0; i < num_planes;) {
      const int count = num_planes - i >= kTile ? kTile : x.planes;
      for (int n = 0; n < count; ++n) rows[n] = x.plane(i + n);
      if (count == kTile) dot<kTile>(m, p, rows, out);
      else if (count == 2) dot<2>(m, p, rows, out);
      else dot<1>(m, p, rows, out);
      for (int n = 0; n < count; n += x.planes) {
        if (x.planes == 2)
          for (int r = 0; r < kPanel; ++r) out[n][r] += out[n + 1][r];
        write((i + n) / x.planes, p, out[n]);
      }
      i += count;
    }
}

}  // namespace heddle

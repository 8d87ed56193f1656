// Vectors of floats as wide as the instruction set has them, and number formats of two bytes.
//
// Written with the vector extensions of GCC and Clang
// (https://gcc.gnu.org/onlinedocs/gcc/Vector-Extensions.html); a build chooses the width by its
// flags. Whatever must give the same bits however rows are batched is written with `fma` here,
// so that no compiler decides what is fused.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace heddle {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

typedef float Vec __attribute__((vector_size(4 * kLanes)));
typedef int32_t VecI __attribute__((vector_size(4 * kLanes)));

inline Vec load(const float* from) {
  Vec v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

inline void store(float* to, Vec v) { std::memcpy(to, &v, sizeof v); }

inline Vec all(float x) { return x - Vec{}; }

// Ask for memory that is read soon, and for such as is read only once: caches keep the rest.
inline void prefetch(const void* from, size_t bytes) {
  for (size_t i = 0; i < bytes; i += 64) __builtin_prefetch((const char*)from + i);
}

template <size_t kBytes>
inline void prefetch_once(const void* from) {
  for (size_t i = 0; i < kBytes; i += 64) __builtin_prefetch((const char*)from + i, 0, 0);
}

// Bring memory into the caches. Loads, since a processor drops what it is asked for beyond what it can
// have under way: one stream of 100 kB comes at 19 GB/s, asked for at 13.
inline void fetch(const void* from, size_t bytes) {
  uint64_t some = 0;
  for (size_t i = 0; i < bytes; i += 64) some += *((const uint8_t*)from + i);
  asm volatile("" : : "r"(some));
}

inline Vec fma(Vec a, Vec b, Vec c) {
#if defined(__AVX512F__)
  return (Vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__AVX2__)
  return (Vec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__aarch64__)
  return (Vec)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
  for (int i = 0; i < kLanes; ++i) c[i] = std::fma(a[i], b[i], c[i]);
  return c;
#endif
}

inline Vec max(Vec a, Vec b) { return a > b ? a : b; }

// Join a vector's lanes: one half with the other, until one lane is left.
template <class T, int kCount = kLanes, class V, class Join>
inline T joined_as(V v, const Join& join) {
  if constexpr (kCount == 4) {
    return join(join((T)v[0], (T)v[2]), join((T)v[1], (T)v[3]));
  } else {
    typedef T Half __attribute__((vector_size(sizeof(T) * kCount / 2)));
    Half parts[2];
    std::memcpy(parts, &v, sizeof v);
    return joined_as<T, kCount / 2>(join(parts[0], parts[1]), join);
  }
}

template <class Join>
inline float joined(Vec v, const Join& join) { return joined_as<float>(v, join); }
template <class Join>
inline int32_t joined(VecI v, const Join& join) { return joined_as<int32_t>(v, join); }

inline float sum(Vec v) {
  return joined(v, [](auto a, auto b) { return a + b; });
}

inline float largest(Vec v) {
  return joined(v, [](auto a, auto b) { return a > b ? a : b; });
}

inline float from_bits(int32_t bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

// Store integers that fit in bytes.
inline void store_bytes(int8_t* to, VecI v) {
  typedef int8_t Byte __attribute__((vector_size(kLanes)));
  const Byte bytes = __builtin_convertvector(v, Byte);
  std::memcpy(to, &bytes, sizeof bytes);
}

// e^x within two units in the last place: x = n ln 2 + r, and a polynomial for e^r.
// Coefficients: Cephes, expf (S. L. Moshier, https://www.netlib.org/cephes/).
inline Vec exp(Vec x) {
  const Vec low = all(-87.3f), high = all(88.3f);
  Vec safe = x < low ? low : (x > high ? high : x);
  const Vec shift = all(12582912.0f);  // 1.5 * 2^23: adding it rounds to the nearest integer
  Vec n = fma(safe, all(1.44269504088896341f), shift) - shift;
  Vec r = fma(n, all(-0.693359375f), safe);
  r = fma(n, all(2.12194440e-4f), r);
  Vec p = all(1.9875691500e-4f);
  p = fma(p, r, all(1.3981999507e-3f));
  p = fma(p, r, all(8.3334519073e-3f));
  p = fma(p, r, all(4.1665795894e-2f));
  p = fma(p, r, all(1.6666665459e-1f));
  p = fma(p, r, all(5.0000001201e-1f));
  p = fma(p, r * r, r + all(1.0f));
  VecI power = (__builtin_convertvector(n, VecI) + 127) << 23;
  Vec scale;
  std::memcpy(&scale, &power, sizeof scale);
  Vec result = p * scale;
  result = x < low ? Vec{} : result;
  return x == x ? result : x;  // NaN stays NaN
}

// Numbers as caches keep them: float32, bfloat16, or int8 whose scale is elsewhere.
typedef uint16_t Bfloat;

inline Vec load_as(const float* from) { return load(from); }

inline Vec load_as(const Bfloat* from) {
#if defined(__AVX512F__)  // compilers widen by pieces where it takes one instruction
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)from));
  return (Vec)_mm512_slli_epi32(wide, 16);
#elif defined(__AVX2__)
  const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)from));
  return (Vec)_mm256_slli_epi32(wide, 16);
#else
  typedef uint16_t Short __attribute__((vector_size(2 * kLanes)));
  typedef uint32_t Wide __attribute__((vector_size(4 * kLanes)));
  Short bits;
  std::memcpy(&bits, from, sizeof bits);
  Wide wide = __builtin_convertvector(bits, Wide) << 16;
  Vec v;
  std::memcpy(&v, &wide, sizeof v);
  return v;
#endif
}

inline Vec load_as(const int8_t* from) {
  typedef int8_t Byte __attribute__((vector_size(kLanes)));
  Byte bytes;
  std::memcpy(&bytes, from, sizeof bytes);
  return __builtin_convertvector(__builtin_convertvector(bytes, VecI), Vec);
}

inline float to_float(float value) { return value; }
inline float to_float(int8_t value) { return value; }

inline float to_float(Bfloat value) {
  const uint32_t bits = (uint32_t)value << 16;
  float wide;
  std::memcpy(&wide, &bits, 4);
  return wide;
}

inline Bfloat to_bfloat(float value) {  // to the nearest, ties to even
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  if (value != value) return (Bfloat)(bits >> 16 | 64);
  return (Bfloat)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

inline float half_to_float(uint16_t h) {
#if defined(__F16C__)
  return _cvtsh_ss(h);
#elif defined(__aarch64__)
  __fp16 half;
  std::memcpy(&half, &h, 2);
  return half;
#else
  uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = (h >> 10) & 31, mantissa = h & 1023;
  float magnitude;
  if (exponent == 0) {
    magnitude = std::ldexp((float)mantissa, -24);
  } else {
    uint32_t bits = exponent == 31 ? 0x7f800000u | mantissa << 13
                                   : (exponent + 112) << 23 | mantissa << 13;
    std::memcpy(&magnitude, &bits, 4);
  }
  uint32_t bits;
  std::memcpy(&bits, &magnitude, 4);
  bits |= sign;
  std::memcpy(&magnitude, &bits, 4);
  return magnitude;
#endif
}

}  // namespace heddle

// A layer's keys and values in pages, as attention reads them.
//
// A page holds, for each kv head, keys by channel and values by token: a vector of keys then has the
// same channel of neighbouring tokens, and nothing needs turning.
#pragma once

#include <algorithm>
#include <cstdint>

#include "simd.h"

namespace heddle {

enum CacheKind : int32_t { kFloat = 0, kBfloat = 1, kInt8 = 2 };

constexpr int kRun = 16;  // neighbouring tokens that lie in one page; pages are multiples of it

// A layer's cache; what its numbers are the step says. Scales are int8's. `slots`, null without
// summaries, holds each tier's, whose pages have as many slots as a block.
struct LayerCache {
  void *k, *v;
  float *k_scale, *v_scale;
  const LayerCache* slots;
};

// Keys, [page][kv head][channel][token], and values, [page][kv head][token][channel]. In int8 a
// token's key and value each have a scale, [page][kv head][token].
template <class T>
struct Cache {
  T *k, *v;
  float *k_scale, *v_scale;
  int page_tokens, num_kv_heads, head_width;

  Cache(const LayerCache& kept, int page_tokens_, int num_kv_heads_, int head_width_)
      : k((T*)kept.k), v((T*)kept.v), k_scale(kept.k_scale), v_scale(kept.v_scale),
        page_tokens(page_tokens_), num_kv_heads(num_kv_heads_), head_width(head_width_) {}

  // A layer's page of a loop's own: keys, then values, then their scales if in int8.
  static Cache own(uint8_t* data, int layer, int block_tokens, int num_kv_heads, int head_width) {
    const size_t tokens = (size_t)num_kv_heads * block_tokens, size = tokens * head_width;
    data += layer * 2 * (size * sizeof(T) + (sizeof(T) == 1 ? tokens * sizeof(float) : 0));
    T* const keys = (T*)data;
    float* const scale = (float*)(keys + 2 * size);
    return {{keys, keys + size, scale, scale + tokens, nullptr}, block_tokens, num_kv_heads,
            head_width};
  }

  size_t scales(int64_t page, int kv_head) const {
    return ((size_t)page * num_kv_heads + kv_head) * page_tokens;
  }
  size_t head(int64_t page, int kv_head) const { return scales(page, kv_head) * head_width; }

  void put(int64_t place, int kv_head, const float* key, const float* value) const {
    put_key(place, kv_head, key);
    const int token = (int)(place % page_tokens);
    const size_t at = head(place / page_tokens, kv_head);
    T* value_to = v + at + (size_t)token * head_width;
    if constexpr (sizeof(T) == 1) {
      const float by_v = step(value, v_scale + scales(place / page_tokens, kv_head) + token);
      for (int c = 0; c < head_width; ++c) value_to[c] = rounded(value[c], by_v);
    } else {
      for (int c = 0; c < head_width; ++c) value_to[c] = kept(value[c]);
    }
  }

  void put_key(int64_t place, int kv_head, const float* key) const {
    const int token = (int)(place % page_tokens);
    T* to = k + head(place / page_tokens, kv_head) + token;
    if constexpr (sizeof(T) == 1) {
      const float by = step(key, k_scale + scales(place / page_tokens, kv_head) + token);
      for (int c = 0; c < head_width; ++c) to[(size_t)c * page_tokens] = rounded(key[c], by);
    } else {
      for (int c = 0; c < head_width; ++c) to[(size_t)c * page_tokens] = kept(key[c]);
    }
  }

  // Read what `put` stored.
  void get(int64_t place, int kv_head, float* key, float* value) const {
    const int token = (int)(place % page_tokens);
    const size_t at = head(place / page_tokens, kv_head);
    const size_t scale_at = scales(place / page_tokens, kv_head) + token;
    const T* value_from = v + at + (size_t)token * head_width;
    float by_k = 1, by_v = 1;
    if constexpr (sizeof(T) == 1) by_k = k_scale[scale_at], by_v = v_scale[scale_at];
    for (int c = 0; c < head_width; ++c) {
      key[c] = to_float(k[at + (size_t)c * page_tokens + token]) * by_k;
      value[c] = to_float(value_from[c]) * by_v;
    }
  }

 private:
  static T kept(float value) {
    if constexpr (sizeof(T) == 2) return to_bfloat(value);
    else return value;
  }

  static int8_t rounded(float number, float by) {
    return by > 0 ? (int8_t)std::nearbyint(number * by) : (int8_t)0;
  }

  // Store the scale that brings the largest of a head's numbers to 127, and return its inverse. What
  // is not finite shows in the scale.
  float step(const float* numbers, float* scale) const {
    Vec top{}, probe{};
    for (int c = 0; c < head_width; c += kLanes) {
      Vec v = load(numbers + c);
      top = max(top, max(v, -v));
      probe += v * 0.0f;
    }
    *scale = largest(top) / 127.0f + sum(probe);
    return *scale > 1e-30f && sum(probe) == 0 ? 1.0f / *scale : 0.0f;
  }
};

}  // namespace heddle

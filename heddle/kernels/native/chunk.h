// The softmax of some queries over 64 keys (online, in float32: Milakov and Gimelshein 2018,
// arXiv:1805.02867).
#pragma once

#include "cache.h"

namespace heddle {

constexpr int kChunk = 64, kMaxHeadWidth = 256;

// A softmax over some keys: the largest logit, the sum of weights relative to it, and the weighted
// sum of values.
struct Part {
  float top = -INFINITY, total = 0;
  float* out = nullptr;
};

inline void merge(Part& into, const Part& next, int head_width) {
  const float top = std::max(into.top, next.top);
  const Vec keep = all(into.top == top ? 1.0f : std::exp(into.top - top));
  const Vec add = all(next.top == top ? 1.0f : std::exp(next.top - top));
  into.total = into.total * keep[0] + next.total * add[0];
  for (int c = 0; c < head_width; c += kLanes)
    store(into.out + c, fma(load(next.out + c), add, load(into.out + c) * keep));
  into.top = top;
}

// Where a chunk's runs of keys and values begin, and their scales. What is added to logits, if
// anything, is for each key.
template <class T>
struct Chunk {
  const T *k[kChunk / kRun], *v[kChunk / kRun];
  const float *k_scale[kChunk / kRun], *v_scale[kChunk / kRun];
  int stride;  // from a channel of a key to the next
  const float* added = nullptr;

  // Of 64 keys from `first` on, of `num_keys` in all that lie in `pages`.
  Chunk(const Cache<T>& cache, const int64_t* pages, int num_keys, int kv_head, int first)
      : stride(cache.page_tokens) {
    for (int i = 0; i < kChunk / kRun; ++i) {
      const int position = std::min(first + i * kRun, (num_keys - 1) / kRun * kRun);
      const int64_t page = pages[position / stride];
      const size_t at = cache.head(page, kv_head);
      k[i] = cache.k + at + position % stride;
      v[i] = cache.v + at + (size_t)(position % stride) * cache.head_width;
      if constexpr (sizeof(T) == 1) {
        k_scale[i] = cache.k_scale + cache.scales(page, kv_head) + position % stride;
        v_scale[i] = cache.v_scale + cache.scales(page, kv_head) + position % stride;
      }
    }
  }
};

// Ask for a chunk's keys and values.
template <class T>
inline void prefetch(const Chunk<T>& chunk, int head_width) {
  const size_t run = (size_t)kRun * head_width * sizeof(T);
  for (int i = 0; i < kChunk / kRun; ++i) {
    if (chunk.stride == kRun) prefetch(chunk.k[i], run);
    else
      for (int c = 0; c < head_width; ++c)
        prefetch(chunk.k[i] + (size_t)c * chunk.stride, kRun * sizeof(T));
    prefetch(chunk.v[i], run);
  }
}

template <int N, int kWide, class T>
inline void mix_values(const Chunk<T>& chunk, const float (*weight)[kChunk], int count, int head_width,
                       Part* parts) {
  for (int c = 0; c < head_width; c += kWide * kLanes) {
    Vec out[N][kWide] = {};
    for (int i = 0; i < count; ++i) {
      const T* value = chunk.v[i / kRun] + (size_t)(i % kRun) * head_width + c;
      for (int n = 0; n < N; ++n)
        for (int w = 0; w < kWide; ++w)
          out[n][w] = fma(all(weight[n][i]), load_as(value + w * kLanes), out[n][w]);
    }
    for (int n = 0; n < N; ++n)
      for (int w = 0; w < kWide; ++w) store(parts[n].out + c + w * kLanes, out[n][w]);
  }
}

// The lanes whose bits are set, and minus infinity for the others.
inline Vec only(uint64_t bits, Vec v) {
  VecI number;
  for (int i = 0; i < kLanes; ++i) number[i] = i;
  const VecI set = (VecI{} + (int32_t)(bits & ((1u << kLanes) - 1))) >> number & 1;
  return set == 1 ? v : all(-INFINITY);
}

// What parts have: weighted sums of values, the 64 weights themselves, or the logits before them.
enum class Wanted { kValues, kWeights, kLogits };

// The softmax of N scaled queries over keys of a chunk: each query's are those whose bits it has in
// `sees`, one at least.
template <Wanted kWanted, int N, class T>
inline void attend_chunk(const Chunk<T>& chunk, const float* const* q, const uint64_t* sees,
                         int head_width, Part* parts) {
  constexpr int kVecs = kChunk / kLanes, kPerRun = kRun / kLanes;
  Vec logit[N][kVecs] = {};
  for (int c = 0; c < head_width; ++c)
    for (int i = 0; i < kVecs; ++i) {
      Vec key = load_as(chunk.k[i / kPerRun] + (size_t)c * chunk.stride + i % kPerRun * kLanes);
      for (int n = 0; n < N; ++n) logit[n][i] = fma(all(q[n][c]), key, logit[n][i]);
    }
  alignas(64) float weight[N][kChunk];
  int most = 0;
  for (int n = 0; n < N; ++n) {
    for (int i = 0; i < kVecs; ++i) {
      const Vec added = chunk.added ? load(chunk.added + i * kLanes) : Vec{};
      if constexpr (sizeof(T) == 1) {
        const Vec scale = load(chunk.k_scale[i / kPerRun] + i % kPerRun * kLanes);
        logit[n][i] = fma(logit[n][i], scale, added);
      } else {
        logit[n][i] += added;
      }
      logit[n][i] = only(sees[n] >> i * kLanes, logit[n][i]);
    }
    if constexpr (kWanted == Wanted::kLogits) {
      for (int i = 0; i < kVecs; ++i) store(&parts[n].out[i * kLanes], logit[n][i]);
      continue;
    }
    Vec top = logit[n][0];
    for (int i = 1; i < kVecs; ++i) top = max(top, logit[n][i]);
    parts[n].top = largest(top);
    Vec total{};
    for (int i = 0; i < kVecs; ++i) {
      Vec w = exp(logit[n][i] - all(parts[n].top));
      store(&weight[n][i * kLanes], w);
      total += w;
    }
    parts[n].total = sum(total);
    if constexpr (kWanted == Wanted::kWeights) {
      std::memcpy(parts[n].out, weight[n], sizeof weight[n]);
      continue;
    }
    if constexpr (sizeof(T) == 1)
      for (int i = 0; i < kChunk; ++i)
        if (sees[n] >> i & 1) weight[n][i] *= chunk.v_scale[i / kRun][i % kRun];
    most = std::max(most, kChunk - __builtin_clzll(sees[n]));
  }
  if constexpr (kWanted != Wanted::kValues) return;
  if (head_width % (2 * kLanes) == 0) mix_values<N, 2>(chunk, weight, most, head_width, parts);
  else mix_values<N, 1>(chunk, weight, most, head_width, parts);
}

}  // namespace heddle

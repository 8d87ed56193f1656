// Grouped-query attention over pages, with an online softmax in float32
// (Milakov and Gimelshein 2018, arXiv:1805.02867).
//
// A page holds, for each kv head, keys by channel and values by token: a vector of keys then has the
// same channel of neighbouring tokens, and nothing needs turning. Keys are met in chunks of 64,
// counted from the sequence's first; each chunk is worked out by itself and then merged, in order.
// So a row's bits depend neither on the rows beside it nor on who computed which chunk.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "simd.h"

namespace heddle {

enum CacheKind : int32_t { kFloat = 0, kBfloat = 1, kInt8 = 2 };

constexpr int kChunk = 64, kMaxHeadWidth = 256;
constexpr int kRun = 16;  // neighbouring tokens that lie in one page; pages are multiples of it

// What tokens of one block left behind in one of the later loops: a page of each layer, laid out as
// `Cache` says, keys first, then values, then their scales if in int8. `present` has a bit for each
// token that went so deep; the others' places are zero.
struct Own {
  uint8_t* data;
  uint64_t* present;
};

// Rows `start` to `end` - 1 of a step belong to one sequence, in the order of their positions.
struct Sequence {
  int32_t start, end;
  const int64_t* pages;  // the cache's, from the sequence's first token on
  const Own* own;        // in a later loop: that loop's, of blocks from `first_block` on
  int64_t first_block;
};

// A layer's keys, [page][kv head][channel][token], and values, [page][kv head][token][channel].
// In int8 a token's key and value each have a scale, [page][kv head][token].
template <class T>
struct Cache {
  T *k, *v;
  float *k_scale, *v_scale;
  int page_tokens, num_kv_heads, head_width;

  size_t scales(int64_t page, int kv_head) const {
    return ((size_t)page * num_kv_heads + kv_head) * page_tokens;
  }
  size_t head(int64_t page, int kv_head) const { return scales(page, kv_head) * head_width; }

  void put(int64_t place, int kv_head, const float* key, const float* value) const {
    const int token = (int)(place % page_tokens);
    const size_t at = head(place / page_tokens, kv_head);
    const size_t scale_at = scales(place / page_tokens, kv_head) + token;
    T* value_to = v + at + (size_t)token * head_width;
    if constexpr (sizeof(T) == 1) {
      const float by_k = step(key, k_scale + scale_at), by_v = step(value, v_scale + scale_at);
      for (int c = 0; c < head_width; ++c) {
        k[at + (size_t)c * page_tokens + token] = rounded(key[c], by_k);
        value_to[c] = rounded(value[c], by_v);
      }
    } else {
      for (int c = 0; c < head_width; ++c) {
        k[at + (size_t)c * page_tokens + token] = kept(key[c]);
        value_to[c] = kept(value[c]);
      }
    }
  }

  // A layer's page of a loop's own.
  static Cache own(uint8_t* data, int layer, int block_tokens, int num_kv_heads, int head_width) {
    const size_t tokens = (size_t)num_kv_heads * block_tokens, size = tokens * head_width;
    data += layer * 2 * (size * sizeof(T) + (sizeof(T) == 1 ? tokens * sizeof(float) : 0));
    T* const keys = (T*)data;
    float* const scale = (float*)(keys + 2 * size);
    return {keys, keys + size, scale, scale + tokens, block_tokens, num_kv_heads, head_width};
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

// A softmax over some keys: the largest logit, the sum of weights relative to it, and the weighted
// sum of values.
struct Part {
  float top = -INFINITY, total = 0;
  float* out = nullptr;
};

inline void merge(Part& into, const Part& next, int head_width) {
  const float top = std::max(into.top, next.top);
  const Vec keep = all(std::exp(into.top - top)), add = all(std::exp(next.top - top));
  into.total = into.total * keep[0] + next.total * add[0];
  for (int c = 0; c < head_width; c += kLanes)
    store(into.out + c, fma(load(next.out + c), add, load(into.out + c) * keep));
  into.top = top;
}

// Where a chunk's runs of keys and values begin, and their scales.
template <class T>
struct Chunk {
  const T *k[kChunk / kRun], *v[kChunk / kRun];
  const float *k_scale[kChunk / kRun], *v_scale[kChunk / kRun];
  int stride;  // from a channel of a key to the next

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

// The softmax of N scaled queries over keys of a chunk: each query's are those whose bits it has in
// `sees`, one at least.
template <int N, class T>
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
      if constexpr (sizeof(T) == 1)
        logit[n][i] *= load(chunk.k_scale[i / kPerRun] + i % kPerRun * kLanes);
      store(&weight[n][i * kLanes], logit[n][i]);
    }
    for (int i = 0; ~sees[n] && i < kChunk; ++i)
      if (!(sees[n] >> i & 1)) weight[n][i] = -INFINITY;
    Vec top = load(weight[n]);
    for (int i = 1; i < kVecs; ++i) top = max(top, load(&weight[n][i * kLanes]));
    parts[n].top = largest(top);
    Vec total{};
    for (int i = 0; i < kVecs; ++i) {
      Vec w = exp(load(&weight[n][i * kLanes]) - all(parts[n].top));
      store(&weight[n][i * kLanes], w);
      total += w;
    }
    parts[n].total = sum(total);
    if constexpr (sizeof(T) == 1)
      for (int i = 0; i < kChunk; ++i)
        if (sees[n] >> i & 1) weight[n][i] *= chunk.v_scale[i / kRun][i % kRun];
    most = std::max(most, kChunk - __builtin_clzll(sees[n]));
  }
  if (head_width % (2 * kLanes) == 0) mix_values<N, 2>(chunk, weight, most, head_width, parts);
  else mix_values<N, 1>(chunk, weight, most, head_width, parts);
}

// What a step's rows see: the cache's keys up to their positions, and in a later loop, which has
// blocks, the loop's own of their block up to there.
struct Sight {
  const int64_t* positions;  // [row]
  int block_tokens;          // 0 in the first loop
  int layer;                 // of those that have pages of the loop's own

  int words() const { return (block_tokens + kChunk - 1) / kChunk; }
};

// A piece of a step's attention: rows `first` to `end` - 1 of a sequence, the heads that share a kv
// head, and chunks `from` to `to` - 1: `num_shared` of the cache's keys, then of the loop's own.
struct Piece {
  const Sequence* sequence;
  int kv_head, first, end, from, to, num_shared;

  // The piece that has all chunks.
  Piece(const Sequence& s, const Sight& sight, int kv_head_, int first_, int end_)
      : sequence(&s), kv_head(kv_head_), first(first_), end(end_), from(0) {
    const int64_t low = sight.positions[first], high = sight.positions[end - 1];
    num_shared = to = (int)(high / kChunk) + 1;
    if (const int size = sight.block_tokens)
      to += (int)(high / size - low / size + 1) * sight.words();
  }
};

// Attention over a step's rows. `rows` [token][stride] hold all heads' scaled queries, in whose
// place attention is put.
template <class T>
class Attention {
 public:
  Attention(const Cache<T>& cache, const Sight& sight, int num_heads, float* rows, int stride)
      : cache_(cache), sight_(sight), group_(num_heads / cache.num_kv_heads), rows_(rows),
        stride_(stride) {}

  int num_parts(const Piece& p) const { return (p.end - p.first) * group_; }

  // Ask for what a piece meets first.
  void prefetch(const Piece& piece) const {
    heddle::prefetch(keys(piece, piece.from).chunk, cache_.head_width);
  }

  // Work out a piece that has all chunks.
  void whole(const Piece& piece) const {
    static thread_local std::vector<float> room;
    static thread_local std::vector<Part> running;
    start(piece, running, room);
    each_chunk(piece, [&](int, int r, const Part& part) {
      merge(running[r], part, cache_.head_width);
    });
    finish(piece, running);
  }

  // Keep what each chunk of a piece gives: `kept` [chunk of the piece][row and head], `room` their
  // sums.
  void partly(const Piece& piece, Part* kept, float* room) const {
    const int num = num_parts(piece), width = cache_.head_width;
    for (int i = 0; i < num * (piece.to - piece.from); ++i) kept[i] = {-INFINITY, 0, nullptr};
    each_chunk(piece, [&](int chunk, int r, const Part& part) {
      const int i = (chunk - piece.from) * num + r;
      kept[i] = {part.top, part.total, room + (size_t)i * width};
      std::memcpy(kept[i].out, part.out, sizeof(float) * width);
    });
  }

  // Merge what was kept of all chunks, in their order.
  void join(const Piece& piece, const Part* kept) const {
    static thread_local std::vector<float> room;
    static thread_local std::vector<Part> running;
    start(piece, running, room);
    const int num = num_parts(piece);
    for (int i = 0; i < num * piece.to; ++i)
      if (kept[i].out) merge(running[i % num], kept[i], cache_.head_width);
    finish(piece, running);
  }

 private:
  float* head(const Piece& p, int r) const {
    return rows_ + (size_t)(p.first + r / group_) * stride_ +
           (size_t)(p.kv_head * group_ + r % group_) * cache_.head_width;
  }

  void start(const Piece& piece, std::vector<Part>& running, std::vector<float>& room) const {
    const int num = num_parts(piece), width = cache_.head_width;
    room.assign((size_t)num * width, 0.0f);
    running.resize(num);
    for (int r = 0; r < num; ++r) running[r] = {-INFINITY, 0, room.data() + (size_t)r * width};
  }

  void finish(const Piece& piece, const std::vector<Part>& running) const {
    for (int r = 0; r < num_parts(piece); ++r) {
      Vec inverse = all(1.0f / running[r].total);
      for (int c = 0; c < cache_.head_width; c += kLanes)
        store(head(piece, r) + c, load(running[r].out + c) * inverse);
    }
  }

  // Keys of one chunk, of tokens from position `first` on; who stands before `end` may see those that
  // are present.
  struct Keys {
    Chunk<T> chunk;
    int64_t first, end;
    uint64_t present;

    uint64_t seen_from(int64_t position) const {
      const int64_t count = position + 1 - first;
      if (count <= 0 || position >= end) return 0;
      return count >= kChunk ? present : present & ((1ull << count) - 1);
    }
  };

  Keys keys(const Piece& p, int number) const {
    const Sequence& s = *p.sequence;
    if (number < p.num_shared) {
      const int num_keys = (int)sight_.positions[p.end - 1] + 1;
      const int first = number * kChunk;
      return {{cache_, s.pages, num_keys, p.kv_head, first}, first, INT64_MAX, ~0ull};
    }
    const int size = sight_.block_tokens, at = number - p.num_shared;
    const int word = at % sight_.words(), first = word * kChunk;
    const int64_t block = sight_.positions[p.first] / size + at / sight_.words();
    const Own& own = s.own[block - s.first_block];
    static constexpr int64_t kOnlyPage[] = {0};
    const auto cache = Cache<T>::own(own.data, sight_.layer, size, cache_.num_kv_heads,
                                     cache_.head_width);
    return {{cache, kOnlyPage, size, p.kv_head, first}, block * size + first, (block + 1) * size,
            own.present[word]};
  }

  // Call `take(chunk, row and head, part)` for what each row makes of each chunk that it sees.
  template <class Take>
  void each_chunk(const Piece& piece, const Take& take) const {
    constexpr int kRows = 4;
    alignas(64) float made[kRows][kMaxHeadWidth];
    for (int number = piece.from; number < piece.to; ++number) {
      const Keys keys = this->keys(piece, number);
      if (number + 1 < piece.to)
        heddle::prefetch(this->keys(piece, number + 1).chunk, cache_.head_width);
      for (int r = 0; r < num_parts(piece); r += kRows) {
        const int num = std::min(kRows, num_parts(piece) - r);
        const float* q[kRows];
        uint64_t sees[kRows];
        int row[kRows], count = 0;
        Part parts[kRows];
        for (int n = 0; n < num; ++n) {
          sees[count] = keys.seen_from(sight_.positions[piece.first + (r + n) / group_]);
          if (!sees[count]) continue;
          row[count] = r + n;
          q[count] = head(piece, r + n);
          parts[count].out = made[count];
          ++count;
        }
        if (count == 4) attend_chunk<4>(keys.chunk, q, sees, cache_.head_width, parts);
        if (count == 3) attend_chunk<3>(keys.chunk, q, sees, cache_.head_width, parts);
        if (count == 2) attend_chunk<2>(keys.chunk, q, sees, cache_.head_width, parts);
        if (count == 1) attend_chunk<1>(keys.chunk, q, sees, cache_.head_width, parts);
        for (int n = 0; n < count; ++n) take(number, row[n], parts[n]);
      }
    }
  }

  Cache<T> cache_;
  Sight sight_;
  int group_;
  float* rows_;
  int stride_;
};

}  // namespace heddle

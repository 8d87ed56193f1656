// Summary slots of a layer: how they are made of a block, and how attention reads them.
// `heddle/model/slots.py` says it in Python, with its sources.
#pragma once

#include "rotation.h"
#include "sight.h"

namespace heddle {

// A layer's way from keys and values to slots: what a value says of its weight, [key or value][kv
// head][channel], and what is added to the logits of each tier.
struct Pooler {
  const float *salience, *mass;
};

// Add up rows, [row][width], weighted by the softmax of their logits.
inline void pool_rows(const float* rows, const float* logits, int num, int width, float* to) {
  std::fill_n(to, width, 0.0f);
  float top = -INFINITY, total = 0;
  for (int i = 0; i < num; ++i) top = std::max(top, logits[i]);
  for (int i = 0; i < num; ++i) total += std::exp(logits[i] - top);
  for (int i = 0; i < num; ++i, rows += width) {
    const float weight = std::exp(logits[i] - top) / total;
    for (int c = 0; c < width; ++c) to[c] += weight * rows[c];
  }
}

template <class T>
class Slots {
 public:
  // `kept` is each tier's cache of the layer whose keys and values `cache` has.
  Slots(const Memory* memory, const Pooler& pooler, const LayerCache* kept, const Cache<T>& cache)
      : memory_(memory), pooler_(pooler), kept_(kept), cache_(cache) {}

  // Make a block's slots of all tiers, of one kv head.
  void make(int64_t page, int64_t block, int kv_head, const Turns& turns) const {
    static thread_local std::vector<float> room;
    const int size = memory_->block_tokens, width = cache_.head_width;
    const size_t rows = (size_t)size * width;
    room.resize(3 * rows + 2 * size);
    float *keys = room.data(), *values = keys + rows, *turned = values + rows;
    float *key_logits = turned + rows, *value_logits = key_logits + size;
    const float* salience = pooler_.salience + (size_t)kv_head * width;
    const size_t to_values = (size_t)cache_.num_kv_heads * width;
    for (int i = 0; i < size; ++i) {
      float* value = values + (size_t)i * width;
      cache_.get(page * size + i, kv_head, keys + (size_t)i * width, value);
      key_logits[i] = logit(value, salience);
      value_logits[i] = logit(value, salience + to_values);
    }
    for (int number = 0; number < memory_->num_tiers + (memory_->index_ratio > 0); ++number) {
      const bool is_index = number == memory_->num_tiers;
      const int ratio = memory_->ratio(number);
      const float* cos = is_index ? memory_->index_cos : memory_->tiers[number].cos;
      const float* sin = is_index ? memory_->index_sin : memory_->tiers[number].sin;
      std::memcpy(turned, keys, rows * sizeof(float));
      for (int i = 0; i < size; ++i) {
        const size_t at = (size_t)(i % ratio) * width;
        rotate(turned + (size_t)i * width, cos + at, sin + at, width);
      }
      const Cache<T> slots = this->tier(number);
      const int num_slots = memory_->num_slots(number);
      for (int i = 0; i < num_slots; ++i) {
        const int end = (i + 1) * ratio;
        const int first = end - memory_->num_members(number, block * num_slots + i);
        alignas(64) float key[kMaxHeadWidth], value[kMaxHeadWidth];
        const size_t at = (size_t)first * width;
        pool_rows(turned + at, key_logits + first, end - first, width, key);
        if (is_index) {
          turns.back(key, block);
          slots.put_key(page * num_slots + i, kv_head, key);
          continue;
        }
        pool_rows(values + at, value_logits + first, end - first, width, value);
        slots.put(page * num_slots + i, kv_head, key, value);
      }
    }
  }

  // Where a chunk's slots lie, as far as they are seen from a position; those of short runs are not
  // gathered yet.
  Chunk<T> chunk(const Sequence& sequence, const Place& place, int64_t position, int kv_head) const {
    const int num = (int)memory_->seen(place.tier, position).end;
    return {tier(place.tier), sequence.pages, num, kv_head, (int)place.first};
  }

  // Give a chunk what it adds to logits, and gather short runs, in room that this thread has for one
  // chunk at a time.
  void complete(Chunk<T>& chunk, const Sequence& sequence, const Place& place, int64_t position,
                int kv_head) const {
    static thread_local std::vector<float> added(kChunk);
    if (place.tier == memory_->num_tiers) {  // of the index the keys alone are met
      if (memory_->num_slots(place.tier) % kRun) gather(chunk, sequence, place, position, kv_head);
      return;
    }
    const int ratio = memory_->tiers[place.tier].ratio;
    const float mass = pooler_.mass[place.tier];
    std::fill(added.begin(), added.end(), std::log((float)ratio) + mass);
    for (int i = 0; i < kChunk && (place.first + i) * ratio < memory_->sink_tokens; ++i)
      added[i] = std::log((float)memory_->num_members(place.tier, place.first + i)) + mass;
    chunk.added = added.data();
    if (memory_->num_slots(place.tier) % kRun) gather(chunk, sequence, place, position, kv_head);
  }

 private:
  Cache<T> tier(int number) const {
    Cache<T> found{kept_[number], memory_->num_slots(number), cache_.num_kv_heads,
                   cache_.head_width};
    if (number == memory_->num_tiers) found.v = found.k, found.v_scale = found.k_scale;
    return found;
  }

  float logit(const float* value, const float* salience) const {
    Vec dot{};
    for (int c = 0; c < cache_.head_width; c += kLanes)
      dot = fma(load(value + c), load(salience + c), dot);
    return sum(dot) / std::sqrt((float)cache_.head_width);
  }

  // Bring slots of blocks that have too few for a run together.
  void gather(Chunk<T>& chunk, const Sequence& sequence, const Place& place, int64_t position,
              int kv_head) const {
    static thread_local std::vector<T> numbers;
    static thread_local std::vector<float> scales(2 * kChunk);
    const Cache<T> from = tier(place.tier);
    const int size = from.page_tokens, width = from.head_width;
    const int num = (int)std::min<int64_t>(
        memory_->seen(place.tier, position).end - place.first, kChunk);
    numbers.resize((size_t)2 * kChunk * width);
    T *const keys = numbers.data(), *const values = keys + (size_t)kChunk * width;
    const bool has_values = place.tier < memory_->num_tiers;
    for (int i = 0, count; i < num; i += count) {
      const int64_t slot = place.first + i, page = sequence.pages[slot / size];
      const int inside = (int)(slot % size);
      count = std::min(size - inside, num - i);
      const T* key = from.k + from.head(page, kv_head) + inside;
      for (int c = 0; c < width; ++c)
        copy_few(key + (size_t)c * size, count, keys + (size_t)c * kChunk + i);
      const size_t at = from.scales(page, kv_head) + inside;
      if constexpr (sizeof(T) == 1) std::memcpy(&scales[i], from.k_scale + at, sizeof(float) * count);
      if (!has_values) continue;
      const T* value = from.v + from.head(page, kv_head) + (size_t)inside * width;
      std::memcpy(values + (size_t)i * width, value, sizeof(T) * count * width);
      if constexpr (sizeof(T) == 1) {
        std::memcpy(&scales[kChunk + i], from.v_scale + at, sizeof(float) * count);
      }
    }
    chunk.stride = kChunk;
    for (int run = 0; run < kChunk / kRun; ++run) {
      chunk.k[run] = keys + run * kRun, chunk.v[run] = values + (size_t)run * kRun * width;
      chunk.k_scale[run] = &scales[run * kRun];
      chunk.v_scale[run] = &scales[kChunk + run * kRun];
    }
  }

  // The compiler has short copies of a length that it knows.
  static void copy_few(const T* from, int count, T* to) {
    switch (count) {
      case 1: *to = *from; break;
      case 4: std::memcpy(to, from, 4 * sizeof(T)); break;
      case 8: std::memcpy(to, from, 8 * sizeof(T)); break;
      default: std::memcpy(to, from, count * sizeof(T));
    }
  }

  const Memory* memory_;
  Pooler pooler_;
  const LayerCache* kept_;
  Cache<T> cache_;
};

}  // namespace heddle

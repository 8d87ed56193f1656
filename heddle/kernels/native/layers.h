// A stretch of decoder layers in one call: what `heddle/model/layers.py` says in Python, over packed
// matrices and the cache's pages.
#pragma once

#include <memory>
#include <vector>

#include "experts.h"
#include "reading.h"
#include "rooms.h"
#include "share.h"

namespace heddle {

struct Shape {
  int32_t width, num_heads, num_kv_heads, head_width, ffn_width;
  float norm_eps;
};

struct Layer {
  const float *attention_norm, *ffn_norm;
  const float *q_norm, *k_norm;  // or null
  Matrix qkv, out, gate_up, down;
  const Experts* experts;        // or null
  Pooler pooler;                 // nulls without summaries
};

// What a later loop adds to a product: a map of low rank. `up` may have more columns than `down` has
// rows: numbers of groups are whole.
struct Lora {
  Matrix down, up;
};

struct LayerLora {
  Lora qkv, out, gate_up, down;
};

// One step's tokens: their angles, where their keys and values go, and the sequences they are of.
// In a later loop `block_tokens` is the size of a block; keys and values go to the loop's own.
struct Step {
  int32_t num_tokens, num_sequences, page_tokens, cache_kind, block_tokens, reserved;
  const float *cos, *sin;  // [token][channel]; sines of the first half have their sign turned
  const int64_t *positions, *places;
  const Sequence* sequences;
};

inline void normalise(const float* x, const float* weight, int width, float eps, float* to) {
  Vec squares{};
  for (int i = 0; i < width; i += kLanes) squares = fma(load(x + i), load(x + i), squares);
  Vec factor = all(1.0f / std::sqrt(sum(squares) / (float)width + eps));
  for (int i = 0; i < width; i += kLanes) store(to + i, load(x + i) * factor * load(weight + i));
}

class Stretch {
 public:
  // `memory` is null, or outlives this.
  Stretch(const Shape& shape, const Memory* memory, Pool& pool)
      : shape_(shape), pool_(pool),
        reading_(pool, shape.num_heads, shape.num_kv_heads, shape.head_width, memory) {}

  // Bring the states of a step's tokens, x [token][width], through layers; a later loop has `loras`.
  void run(const Layer* layers, const LayerLora* loras, int num_layers, const Step& step, float* x,
           const LayerCache* caches, const Routing* routing) {
    if (step.block_tokens) find_own(step);
    reading_.plan(step.sequences, step.num_sequences, step.positions, step.block_tokens);
    for (int i = 0; i < num_layers; ++i) {
      number_ = i, is_last_ = i + 1 == num_layers;
      const Experts* experts = routing ? layers[i].experts : nullptr;
      Routing mine{};
      if (experts) mine = routing->of_layer(i, (size_t)step.num_tokens * experts->num);
      run(layers[i], loras ? loras + i : nullptr, step, x, caches[i], experts, mine);
    }
  }

 private:
  void run(const Layer& layer, const LayerLora* lora, const Step& step, float* x,
           const LayerCache& cache, const Experts* experts, const Routing& routing) {
    const int num = step.num_tokens;
    const int projected_width = layer.qkv.rows;
    float* projected = rooms_.floats(rooms_.projected, (size_t)num * projected_width);
    switch (step.cache_kind) {
      case kInt8: look<int8_t>(layer, lora, step, x, cache, projected); break;
      case kBfloat: look<Bfloat>(layer, lora, step, x, cache, projected); break;
      default: look<float>(layer, lora, step, x, cache, projected);
    }
    const Input mixed = input(num, layer.out.cols, lora ? &lora->out : nullptr, [&](int t) {
      return projected + (size_t)t * projected_width;
    });
    split(pool_, layer.out.panels(),
          [&](int first, int end) { add_product(layer.out, mixed, num, x, first, end); });
    const Input read_again = read(layer.ffn_norm, x, num, lora ? &lora->gate_up : nullptr);
    if (experts) mixer_.begin(*experts, routing, rooms_.normed.data(), read_again.rows, num);
    else mixer_.clear();
    Input gated{feed_forward(layer, read_again, num), {}};
    if (lora) {
      gated.added = lowered(lora->down, num);
      each_row(pool_, num, [&](int t) { lower(lora->down, gated, t); });
    }
    split(pool_, layer.down.panels(), [&](int first, int end) {
      add_product(layer.down, gated, num, x, first, end);
      mixer_.mix(first, end, x);
    });
  }

  // Mark a later loop's tokens as present, and find where each one's keys and values go.
  void find_own(const Step& step) {
    own_.resize(step.num_tokens);
    for (int i = 0; i < step.num_sequences; ++i) {
      const Sequence& s = step.sequences[i];
      for (int t = s.start; t < s.end; ++t) {
        const int64_t position = step.positions[t], place = position % step.block_tokens;
        const Own& own = s.own[position / step.block_tokens - s.first_block];
        own.present[place / kChunk] |= 1ull << place % kChunk;
        own_[t] = own.data;
      }
    }
  }

  // Room for what an adapter makes of rows.
  Added lowered(const Lora& lora, int num) {
    return {&lora.up, rooms_low_.rounded(num, lora.up.cols)};
  }

  // Take a row to an adapter's low rank.
  static void lower(const Lora& lora, const Input& in, int t) {
    static thread_local std::vector<float> room;
    room.assign(lora.up.cols, 0.0f);
    const auto write = [&](int, int p, const float* product) {
      std::memcpy(&room[p * kPanel], product, sizeof(float) * kPanel);
    };
    multiply(lora.down, in.rows.row(t), 1, 0, lora.down.panels(), write);
    round_row(room.data(), in.added.x.row(t));
  }

  // Round what `row(t)` gives of each row, for a product and its adapter, if it has one.
  template <class Row>
  Input input(int num, int cols, const Lora* lora, const Row& row) {
    Input to{rooms_.rounded(num, cols), {}};
    if (lora) to.added = lowered(*lora, num);
    each_row(pool_, num, [&](int t) {
      round_row(row(t), to.rows.row(t));
      if (lora) lower(*lora, to, t);
    });
    return to;
  }

  Input read(const float* weight, const float* x, int num, const Lora* lora) {
    const int width = shape_.width;
    float* normed = rooms_.floats(rooms_.normed, (size_t)num * width);
    return input(num, width, lora, [&](int t) {
      float* row = normed + (size_t)t * width;
      normalise(x + (size_t)t * width, weight, width, shape_.norm_eps, row);
      return row;
    });
  }

  // Add panels of a product to states.
  void add_product(const Matrix& m, const Input& in, int num, float* x, int first, int end) {
    const auto write = [&](int t, int p, const float* product) {
      write_panel(m, p, product, x + (size_t)t * shape_.width, true);
    };
    multiply(m, in.rows, num, first, end, write, in.added);
  }

  // Project states, put keys and values into the cache, and attention in the place of queries. What
  // attention meets first is asked for while weights are read.
  template <class T>
  void look(const Layer& layer, const LayerLora* lora, const Step& step, const float* x,
            const LayerCache& kept, float* projected) {
    const int num = step.num_tokens, stride = layer.qkv.rows;
    const Cache<T> cache(kept, step.page_tokens, shape_.num_kv_heads, shape_.head_width);
    const auto attention = reading_.over(cache, layer.pooler, kept.slots, number_,
                                         {projected, stride, shape_.num_heads});
    const Input in = read(layer.attention_norm, x, num, lora ? &lora->qkv : nullptr);
    const std::vector<Piece>& pieces = reading_.pieces();
    const int early = num < kFewRows ? (int)pieces.size() : 0;
    const auto project = [&](int first, int end) {
      const auto write = [&](int t, int p, const float* product) {
        write_panel(layer.qkv, p, product, projected + (size_t)t * stride, false);
      };
      multiply(layer.qkv, in.rows, num, first, end, write, in.added);
    };
    split(pool_, layer.qkv.panels(), project, early,
          [&](int i) { attention.prefetch(pieces[i]); });
    each_row(pool_, num, [&](int t) { place(layer, step, t, projected, cache); });
    // Adapters are small, and each of their products would wait for its first bytes.
    reading_.attend(attention, lora && num < kFewRows ? 1 : 0, [&](int) {
      for (const Lora* each : {&lora->out, &lora->gate_up, &lora->down}) fetch(*each);
      if (!is_last_) fetch(lora[1].qkv);
    });
  }

  static void fetch(const Lora& lora) {
    heddle::fetch(lora.down.data, lora.down.bytes());
    heddle::fetch(lora.up.data, lora.up.bytes());
  }

  // Normalise and rotate a token's queries and keys, scale the queries for attention, and put keys and
  // values into the cache.
  template <class T>
  void place(const Layer& layer, const Step& step, int t, float* projected,
             const Cache<T>& cache) {
    const int width = shape_.head_width, kv_width = shape_.num_kv_heads * width;
    const int q_width = shape_.num_heads * width;
    float* row = projected + (size_t)t * layer.qkv.rows;
    const float *cos = step.cos + (size_t)t * width, *sin = step.sin + (size_t)t * width;
    for (int h = 0; h < shape_.num_heads + shape_.num_kv_heads; ++h) {
      float* head = row + h * width;
      const float* norm = h < shape_.num_heads ? layer.q_norm : layer.k_norm;
      if (norm) normalise(head, norm, width, shape_.norm_eps, head);
      rotate(head, cos, sin, width);
    }
    const Vec scale = all(1.0f / std::sqrt((float)width));
    for (int i = 0; i < q_width; i += kLanes) store(row + i, load(row + i) * scale);
    const int size = step.block_tokens;
    const Cache<T> into =
        size ? Cache<T>::own(own_[t], number_, size, shape_.num_kv_heads, width) : cache;
    const int64_t at = size ? step.positions[t] % size : step.places[t];
    for (int h = 0; h < shape_.num_kv_heads; ++h) {
      const float* key = row + q_width + h * width;
      into.put(at, h, key, key + kv_width);
    }
  }

  // The gated product of a group of 32 channels is rounded as soon as it is there. Experts are chosen
  // and do the same beside it: whoever comes to their pieces waits for those who choose, which have
  // begun before.
  Rounded feed_forward(const Layer& layer, const Input& in, int num) {
    const int num_groups = shape_.ffn_width / kGroup, threads = pool_.num_threads();
    Rounded gated = rooms_gated_.rounded(num, shape_.ffn_width);
    const int choosing = mixer_.has_begun() ? std::min(num, threads) : 0;
    const Pieces pieces(num_groups, threads);
    const int mixing = mixer_.has_begun() ? 4 * threads : 0;
    const int before = std::min(threads, pieces.num());  // until experts are chosen
    mixer_.expect(choosing);
    pool_.run(choosing + pieces.num() + mixing, [&](int i) {
      if (i < choosing) return mixer_.choose_rows(num * i / choosing, num * (i + 1) / choosing);
      i -= choosing;
      if (i >= before && i < before + mixing) return mixer_.gate(i - before, mixing);
      if (i >= before) i -= mixing;
      for (int g = pieces.first(i); g < pieces.end(i); ++g)
        gate_group(layer.gate_up, in, num, g, gated, nullptr);
    });
    return gated;
  }

  const Shape shape_;
  Pool& pool_;
  Mixer mixer_;
  Reading reading_;
  Rooms rooms_, rooms_gated_, rooms_low_;
  int number_ = 0;  // of the layer at hand, in this run
  bool is_last_ = false;
  std::vector<uint8_t*> own_;  // in a later loop: each token's page of the loop's own
};

}  // namespace heddle

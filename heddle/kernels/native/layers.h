// A stretch of decoder layers in one call: what `heddle/model/layers.py` says in Python, over packed
// matrices and the cache's pages.
#pragma once

#include <memory>
#include <vector>

#include "attention.h"
#include "experts.h"
#include "pool.h"
#include "rooms.h"

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
};

// One step's tokens: their angles, where their keys and values go, and the sequences they are of.
struct Step {
  int32_t num_tokens, num_sequences, page_tokens, cache_kind;
  const float *cos, *sin;  // [token][channel]; sines of the first half have their sign turned
  const int64_t* places;
  const Sequence* sequences;
};

inline void normalise(const float* x, const float* weight, int width, float eps, float* to) {
  Vec squares{};
  for (int i = 0; i < width; i += kLanes) squares = fma(load(x + i), load(x + i), squares);
  Vec factor = all(1.0f / std::sqrt(sum(squares) / (float)width + eps));
  for (int i = 0; i < width; i += kLanes) store(to + i, load(x + i) * factor * load(weight + i));
}

inline void rotate(float* head, const float* cos, const float* sin, int width) {
  const int half = width / 2;
  for (int i = 0; i < half; ++i) {
    float a = head[i], b = head[i + half];
    head[i] = a * cos[i] + b * sin[i];
    head[i + half] = b * cos[i + half] + a * sin[i + half];
  }
}

// A layer's cache; what its numbers are the step says. Scales are int8's.
struct LayerCache {
  void *k, *v;
  float *k_scale, *v_scale;
};

class Stretch {
 public:
  Stretch(const Shape& shape, Pool& pool) : shape_(shape), pool_(pool), mixer_(pool) {}

  // Bring the states of a step's tokens, x [token][width], through one layer.
  void run(const Layer& layer, const Step& step, float* x, const LayerCache& cache,
           const Routing* routing) {
    const int num = step.num_tokens;
    const int projected_width = layer.qkv.rows;
    float* projected = rooms_.floats(rooms_.projected, (size_t)num * projected_width);
    Rounded in = read(layer.attention_norm, x, num);
    each_panel(layer.qkv, num, [&](int first, int end) {
      multiply(layer.qkv, in, num, first, end, [&](int t, int p, const float* product) {
        write_panel(layer.qkv, p, product, projected + (size_t)t * projected_width, false);
      });
    });
    switch (step.cache_kind) {
      case kInt8: remember<int8_t>(layer, step, cache, projected); break;
      case kBfloat: remember<Bfloat>(layer, step, cache, projected); break;
      default: remember<float>(layer, step, cache, projected);
    }
    Rounded mixed = rooms_.rounded(num, layer.out.cols, kPlanes);
    each_row(num, [&](int t) { round_row(projected + (size_t)t * projected_width, mixed.row(t)); });
    add_product(layer.out, mixed, num, x);
    Rounded read_again = read(layer.ffn_norm, x, num);
    Rounded gated = feed_forward(layer, read_again, num);
    add_product(layer.down, gated, num, x);
    if (layer.experts && routing)
      mixer_.run(*layer.experts, *routing, rooms_.normed.data(), read_again, num, shape_.width, x);
  }

 private:
  template <class Work>
  void each_row(int num, const Work& work) {
    if (num < 8) {
      for (int t = 0; t < num; ++t) work(t);
      return;
    }
    const int pieces = std::min(num, 4 * pool_.num_threads());
    pool_.run(pieces, [&](int i) {
      for (int t = num * i / pieces; t < num * (i + 1) / pieces; ++t) work(t);
    });
  }

  template <class Work>
  void each_panel(const Matrix& m, int num, const Work& work) {
    split(m.panels(), num, work);
  }

  template <class Work>
  void split(int units, int num, const Work& work) {
    const int pieces = std::min(units, (num > 1 ? 8 : 4) * pool_.num_threads());
    pool_.run(pieces, [&](int i) { work(units * i / pieces, units * (i + 1) / pieces); });
  }

  Rounded read(const float* weight, const float* x, int num) {
    const int width = shape_.width;
    Rounded to = rooms_.rounded(num, width, kPlanes);
    float* normed = rooms_.floats(rooms_.normed, (size_t)num * width);
    each_row(num, [&](int t) {
      float* row = normed + (size_t)t * width;
      normalise(x + (size_t)t * width, weight, width, shape_.norm_eps, row);
      round_row(row, to.row(t));
    });
    return to;
  }

  void add_product(const Matrix& m, const Rounded& in, int num, float* x) {
    const int width = shape_.width;
    each_panel(m, num, [&](int first, int end) {
      multiply(m, in, num, first, end, [&](int t, int p, const float* product) {
        write_panel(m, p, product, x + (size_t)t * width, true);
      });
    });
  }

  // Put keys and values into the cache, and attention in the place of queries.
  template <class T>
  void remember(const Layer& layer, const Step& step, const LayerCache& kept, float* projected) {
    const Cache<T> cache{(T*)kept.k,       (T*)kept.v,           kept.k_scale,
                         kept.v_scale,     step.page_tokens,     shape_.num_kv_heads,
                         shape_.head_width};
    each_row(step.num_tokens, [&](int t) { place(layer, step, t, projected, cache); });
    attend(step, cache, projected, layer.qkv.rows);
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
    for (int h = 0; h < shape_.num_kv_heads; ++h) {
      const float* key = row + q_width + h * width;
      cache.put(step.places[t], h, key, key + kv_width);
    }
  }

  // Put each row's attention in the place of its queries.
  template <class T>
  void attend(const Step& step, const Cache<T>& cache, float* projected, int stride) {
    constexpr int kRows = 16, kLeastChunks = 4;
    const Attention<T> attention(cache, shape_.num_heads, projected, stride);
    pieces_.clear();
    for (int s = 0; s < step.num_sequences; ++s) {
      const Sequence& sequence = step.sequences[s];
      for (int first = sequence.start; first < sequence.end; first += kRows)
        for (int h = 0; h < shape_.num_kv_heads; ++h)
          pieces_.push_back({&sequence, h, first, std::min(first + kRows, sequence.end), 0,
                             sequence.num_chunks()});
    }
    const int num_whole = (int)pieces_.size();
    if (num_whole >= 4 * pool_.num_threads() || pieces_[0].to < 2 * kLeastChunks) {
      pool_.run(num_whole, [&](int i) { attention.whole(pieces_[i]); });
      return;
    }
    // Few rows that look far back: chunks are shared out, too.
    splits_.clear();
    size_t num_parts = 0;
    for (const Piece& whole : pieces_)
      for (int from = 0; from < whole.to; from += kLeastChunks) {
        Piece part = whole;
        part.from = from, part.to = std::min(from + kLeastChunks, whole.to);
        splits_.push_back({part, num_parts});
        num_parts += (size_t)attention.num_parts(part) * (part.to - part.from);
      }
    parts_.resize(std::max(parts_.size(), num_parts));
    float* sums = rooms_.floats(sums_, num_parts * shape_.head_width);
    pool_.run((int)splits_.size(), [&](int i) {
      const Split& split = splits_[i];
      attention.partly(split.piece, &parts_[split.at], sums + split.at * shape_.head_width);
    });
    size_t at = 0;
    for (const Piece& whole : pieces_) {
      attention.join(whole, &parts_[at]);
      at += (size_t)attention.num_parts(whole) * whole.to;
    }
  }

  // The gated product of a group of 32 channels is rounded as soon as it is there.
  Rounded feed_forward(const Layer& layer, const Rounded& in, int num) {
    const int ffn = shape_.ffn_width;
    Rounded gated = rooms_gated_.rounded(num, ffn, kPlanes);
    split(ffn / kGroup, num, [&](int first, int end) {
      for (int g = first; g < end; ++g) gate_group(layer.gate_up, in, num, g, gated, nullptr);
    });
    return gated;
  }

  struct Split {
    Piece piece;
    size_t at;  // of its first part
  };

  Shape shape_;
  Pool& pool_;
  Mixer mixer_;
  Rooms rooms_, rooms_gated_;
  std::vector<Piece> pieces_;
  std::vector<Split> splits_;
  std::vector<Part> parts_;
  std::vector<float> sums_;
};

}  // namespace heddle

// The gate over clusters, and what it says of experts: `heddle/model/router.py` says it in Python.
#pragma once

#include "layers.h"

namespace heddle {

constexpr float kLeastShare = 1e-4f;  // `EPSILON` in Python

// `context` gives the channels of the running mean; `clusters` reads a token's, those, and zeros up to
// a whole group.
struct Gate {
  const float* norm;
  Matrix context, clusters;
  float eps, decay, temperature;
  int32_t num_experts;
  const int64_t* cluster;  // of each expert
  const float* price;
};

// A step's tokens, and the cache's running mean [page][channel], behind each page's last token.
struct Past {
  const Sequence* sequences;
  const int64_t* positions;
  int32_t num_sequences, page_tokens;
  float* mean;
};

// Write each row's share of the clusters; x [row][width].
inline void share_clusters(const Gate& g, Pool& pool, const float* x, int num, const Past& past,
                           float* shares) {
  static thread_local Rooms rooms, rooms_mean;
  const int width = g.context.cols, channels = g.context.rows, both = g.clusters.cols;
  float* read = rooms.floats(rooms.normed, (size_t)num * both);
  const Rounded in = rooms.rounded(num, width);
  const Rounded in_both = rooms_mean.rounded(num, both);
  each_row(pool, num, [&](int t) {
    float* row = read + (size_t)t * both;
    normalise(x + (size_t)t * width, g.norm, width, g.eps, row);
    round_row(row, in.row(t));
    multiply(g.context, in.row(t), 1, 0, g.context.panels(), [&](int, int p, const float* product) {
      write_panel(g.context, p, product, row + width, false);
    });
    std::fill(row + width + channels, row + both, 0.0f);
  });
  for (int s = 0; s < past.num_sequences; ++s) {
    const Sequence& sequence = past.sequences[s];
    for (int t = sequence.start; t < sequence.end; ++t) {
      // Token by token: bits must not depend on how a sequence was cut into steps.
      const int64_t position = past.positions[t];
      const float* before = nullptr;
      if (position > 0)
        before = past.mean + sequence.pages[(position - 1) / past.page_tokens] * channels;
      float* after = past.mean + sequence.pages[position / past.page_tokens] * channels;
      float* row = read + (size_t)t * both + width;
      for (int i = 0; i < channels; ++i)
        row[i] = std::fma(g.decay, (before ? before[i] : 0.0f) - row[i], row[i]);
      std::memcpy(after, row, sizeof(float) * channels);
    }
  }
  each_row(pool, num, [&](int t) {
    round_row(read + (size_t)t * both, in_both.row(t));
    float* share = shares + (size_t)t * g.clusters.rows;
    multiply(g.clusters, in_both.row(t), 1, 0, g.clusters.panels(),
             [&](int, int p, const float* product) {
               write_panel(g.clusters, p, product, share, false);
             });
    float top = -INFINITY, total = 0;
    for (int i = 0; i < g.clusters.rows; ++i) top = std::max(top, share[i] /= g.temperature);
    for (int i = 0; i < g.clusters.rows; ++i) total += share[i] = std::exp(share[i] - top);
    for (int i = 0; i < g.clusters.rows; ++i) share[i] /= total;
  });
}

// Write what routers are told of each row's experts; `steer` [row][cluster] is null if nothing is
// added.
inline void tell_routers(const Gate& g, const float* shares, const float* steer, int num,
                         float* log_prior, float* bias) {
  const int num_clusters = g.clusters.rows;
  for (int t = 0; t < num; ++t)
    for (int i = 0; i < g.num_experts; ++i) {
      const size_t from = (size_t)t * num_clusters + g.cluster[i], to = (size_t)t * g.num_experts + i;
      log_prior[to] = std::log(shares[from] + kLeastShare);
      bias[to] = -g.price[i] + (steer ? steer[from] : 0.0f);
    }
}

}  // namespace heddle

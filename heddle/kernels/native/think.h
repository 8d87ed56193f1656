// What a thinking block does besides its layers: `heddle/model/think.py` says it in Python.
#pragma once

#include "layers.h"

namespace heddle {

// The block's own weights. `steps` has a row for each loop from the second on.
struct Think {
  const float *mix_norm, *steps, *read_norm;
  Lora mix;
  Matrix gate, read;
  float mix_eps, read_eps;
};

class Thinking {
 public:
  Thinking(const Think& think, Stretch& stretch, Pool& pool)
      : think_(think), stretch_(stretch), pool_(pool), width_(think.gate.rows) {}

  // Write what states h [row][width] say: whether the answer is hard, and whether it has settled.
  void read(const float* h, int num, float* said) {
    const Rounded in = rooms_.rounded(num, width_);
    float* normed = rooms_.floats(rooms_.normed, (size_t)num * width_);
    each_row(pool_, num, [&](int t) {
      float* row = normed + (size_t)t * width_;
      normalise(h + (size_t)t * width_, think_.read_norm, width_, think_.read_eps, row);
      round_row(row, in.row(t));
      multiply(think_.read, in.row(t), 1, 0, 1, [&](int, int p, const float* product) {
        write_panel(think_.read, p, product, said + (size_t)t * think_.read.rows, false);
      });
    });
  }

  // Pass states h [row][width] through the block once more, its `loop`th time; x is what entered it
  // at first. Then read them.
  void again(int loop, const Layer* layers, const LayerLora* loras, int num_layers,
             const Step& step, const LayerCache* caches, const Routing* routing, const float* x,
             float* h, float* said) {
    const int num = step.num_tokens;
    float* u = rooms_.floats(rooms_.projected, (size_t)num * width_);
    mix(think_.steps + (size_t)(loop - 2) * width_, x, h, num, u);
    stretch_.run(layers, loras, num_layers, step, u, caches, routing);
    change(u, num, h);
    read(h, num, said);
  }

 private:
  // Write h + A(RMS[h; x]) + step to u.
  void mix(const float* step, const float* x, const float* h, int num, float* u) {
    const Matrix &down = think_.mix.down, &up = think_.mix.up;
    const Rounded both = rooms_.rounded(num, 2 * width_);
    const Rounded low = rooms_low_.rounded(num, up.cols);
    float* normed = rooms_.floats(rooms_.normed, (size_t)num * 2 * width_);
    float* lowered = rooms_low_.floats(rooms_low_.normed, (size_t)num * up.cols);
    each_row(pool_, num, [&](int t) {
      float* row = normed + (size_t)t * 2 * width_;
      std::memcpy(row, h + (size_t)t * width_, sizeof(float) * width_);
      std::memcpy(row + width_, x + (size_t)t * width_, sizeof(float) * width_);
      normalise(row, think_.mix_norm, 2 * width_, think_.mix_eps, row);
      round_row(row, both.row(t));
    });
    std::fill_n(lowered, (size_t)num * up.cols, 0.0f);  // `up` may have more columns
    split(pool_, down.panels(), [&](int first, int end) {
      multiply(down, both, num, first, end, [&](int t, int p, const float* product) {
        write_panel(down, p, product, lowered + (size_t)t * up.cols, false);
      });
    });
    each_row(pool_, num, [&](int t) { round_row(lowered + (size_t)t * up.cols, low.row(t)); });
    split(pool_, up.panels(), [&](int first, int end) {
      multiply(up, low, num, first, end, [&](int t, int p, const float* product) {
        const size_t at = (size_t)t * width_;
        for (int i = p * kPanel; i < std::min(width_, (p + 1) * kPanel); ++i)
          u[at + i] = h[at + i] + product[i - p * kPanel] + step[i];
      });
    });
  }

  // Move h towards u: by what the gate lets through of the change.
  void change(float* u, int num, float* h) {
    const Matrix& gate = think_.gate;
    const Rounded in = rooms_.rounded(num, width_);
    each_row(pool_, num, [&](int t) {
      float* row = u + (size_t)t * width_;
      for (int i = 0; i < width_; ++i) row[i] -= h[(size_t)t * width_ + i];
      round_row(row, in.row(t));
    });
    split(pool_, gate.panels(), [&](int first, int end) {
      multiply(gate, in, num, first, end, [&](int t, int p, const float* product) {
        alignas(64) float opened[kPanel];
        std::memcpy(opened, product, sizeof opened);
        const int at = p * kPanel;
        for (int i = 0; gate.bias && i < std::min(kPanel, width_ - at); ++i)
          opened[i] += gate.bias[at + i];
        for (int i = 0; i < kPanel; i += kLanes)
          store(opened + i, all(1.0f) / (all(1.0f) + exp(-load(opened + i))));
        for (int i = 0; i < std::min(kPanel, width_ - at); ++i)
          h[(size_t)t * width_ + at + i] += opened[i] * u[(size_t)t * width_ + at + i];
      });
    });
  }

  const Think think_;
  Stretch& stretch_;
  Pool& pool_;
  const int width_;
  Rooms rooms_, rooms_low_;
};

}  // namespace heddle

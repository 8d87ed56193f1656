// Rooms for intermediate results, and the products that write into them.
#pragma once

#include <vector>

#include "product.h"

namespace heddle {

// Rooms for a step's intermediate results, kept from step to step.
struct Rooms {
  std::vector<int8_t> q;
  std::vector<float> scale, projected, normed;
  std::vector<int32_t> sums;

  Rounded rounded(int rows, int cols, int planes) {
    const size_t count = (size_t)rows * planes * cols;
    q.resize(std::max(q.size(), count));
    scale.resize(std::max(scale.size(), count / kGroup));
    sums.resize(std::max(sums.size(), count / kGroup));
    return {q.data(), scale.data(), sums.data(), cols, planes};
  }
  float* floats(std::vector<float>& room, size_t count) {
    if (room.size() < count) room.resize(count);
    return room.data();
  }
};

// Put a panel's products and their bias into a row of results, or add them to what is there.
inline void write_panel(const Matrix& m, int panel, const float* product, float* row, bool adds) {
  const int first = panel * kPanel, count = std::min(kPanel, m.rows - first);
  for (int i = 0; i < count; ++i) {
    float value = product[i] + (m.bias ? m.bias[first + i] : 0);
    row[first + i] = adds ? row[first + i] + value : value;
  }
}

// What a product reads: rows, and what is added to it.
struct Input {
  Rounded rows;
  Added added;
};

// Make a group of 32 channels of a gated product, silu(gate) * up, and round it. `gate_up` has
// gates and ups in turns of a group. Each row may have a weight.
inline void gate_group(const Matrix& gate_up, const Input& in, int num, int group,
                       const Rounded& gated, const float* weights) {
  static thread_local std::vector<float> room;
  room.resize((size_t)num * 2 * kGroup);
  constexpr int kPanels = 2 * kGroup / kPanel;
  const int panel = kPanels * group;
  const auto write = [&](int t, int p, const float* product) {
    float* to = room.data() + (size_t)t * 2 * kGroup + (p - panel) * kPanel;
    std::memcpy(to, product, sizeof(float) * kPanel);
  };
  multiply(gate_up, in.rows, num, panel, panel + kPanels, write, in.added);
  for (int t = 0; t < num; ++t) {
    float *gate = room.data() + (size_t)t * 2 * kGroup, *up = gate + kGroup;
    const Vec weight = all(weights ? weights[t] : 1.0f);
    for (int i = 0; i < kGroup; i += kLanes) {
      Vec v = load(gate + i);
      store(gate + i, v / (all(1.0f) + exp(-v)) * load(up + i) * weight);
    }
    round_group(gate, gated.row(t), group);
  }
}

}  // namespace heddle

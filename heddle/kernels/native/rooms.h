// Rooms for intermediate results, and the products that write into them.
#pragma once

#include <vector>

#include "product.h"

namespace heddle {

// Rooms for a step's intermediate results, kept from step to step.
struct Rooms {
  std::vector<int8_t> q;
  std::vector<float> scale, total, projected, normed;
  std::vector<int32_t> sum;

  Rounded rounded(int rows, int cols) {
    const size_t groups = (size_t)rows * cols / kGroup;
    if (scale.size() < groups) {
      q.resize(groups * Rounded::kBytes);
      scale.resize(groups), total.resize(groups), sum.resize(groups);
    }
    return {q.data(), scale.data(), sum.data(), total.data(), cols};
  }
  float* floats(std::vector<float>& room, size_t count) {
    if (room.size() < count) room.resize(count);
    return room.data();
  }
};

// Put a panel's products and their bias into a row of results, or add them to what is there.
inline void write_panel(const Matrix& m, int panel, const float* product, float* row, bool adds) {
  const int first = panel * kPanel, count = m.rows - first;
  row += first;
  if (count < kPanel) {
    for (int i = 0; i < count; ++i) {
      const float value = m.bias ? product[i] + m.bias[first + i] : product[i];
      row[i] = adds ? row[i] + value : value;
    }
    return;
  }
  for (int i = 0; i < kPanel; i += kLanes) {
    const Vec value = m.bias ? load(product + i) + load(m.bias + first + i) : load(product + i);
    store(row + i, adds ? load(row + i) + value : value);
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
  constexpr int kPanels = 2 * kGroup / kPanel;
  const int panel = kPanels * group;
  alignas(64) float room[kTile][2 * kGroup];
  for (int first = 0; first < num; first += kTile) {
    const int count = std::min(kTile, num - first);
    multiply_tile(gate_up, in.rows, first, count, panel, panel + kPanels,
                  [&](int t, int p, const float* product) {
                    std::memcpy(room[t - first] + (p - panel) * kPanel, product,
                                sizeof(float) * kPanel);
                  }, in.added);
    for (int n = 0; n < count; ++n) {
      float *gate = room[n], *up = gate + kGroup;
      const Vec weight = all(weights ? weights[first + n] : 1.0f);
      for (int i = 0; i < kGroup; i += kLanes) {
        Vec v = load(gate + i);
        store(gate + i, v / (all(1.0f) + exp(-v)) * load(up + i) * weight);
      }
      round_group(gate, gated.row(first + n), group);
    }
  }
}

}  // namespace heddle

// Rotary positions (Su et al. 2021, arXiv:2104.09864): `heddle/model/rope.py` says it in Python.
#pragma once

namespace heddle {

// Turn a head's channels, each with the one half a head away. Sines of the first half have their
// sign turned.
inline void rotate(float* head, const float* cos, const float* sin, int width) {
  const int half = width / 2;
  for (int i = 0; i < half; ++i) {
    float a = head[i], b = head[i + half];
    head[i] = a * cos[i] + b * sin[i];
    head[i + half] = b * cos[i + half] + a * sin[i + half];
  }
}

}  // namespace heddle

// The plain C interface that `heddle/kernels/cpu.py` calls. Built once for each instruction set.

#include "gate.h"
#include "think.h"

#if defined(__aarch64__) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

using namespace heddle;

extern "C" {

// The best instruction set that this processor has, of those that builds exist for.
const char* heddle_best() {
#if defined(__x86_64__) && defined(__GNUC__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni"))
    return "avx512";
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return "avx2";
#elif defined(__aarch64__) && defined(__linux__)
  return getauxval(AT_HWCAP) & HWCAP_ASIMDDP ? "dotprod" : "neon";
#elif defined(__aarch64__) && defined(__APPLE__)
  return "dotprod";  // every Mac of this architecture has it
#endif
  return "portable";
}

Pool* heddle_pool(int num_threads) { return new Pool(num_threads); }
void heddle_pool_free(Pool* pool) {
  if (!pool->is_forked()) delete pool;
}

// `memory` is null without summaries, else it outlives the stretch. Null for one that contradicts
// itself.
Stretch* heddle_stretch(const Shape* shape, const Memory* memory, Pool* pool) {
  if (memory && !memory->is_sound()) return nullptr;
  return new Stretch(*shape, memory, *pool);
}
void heddle_stretch_free(Stretch* stretch) { delete stretch; }

// Bring x [token][width] through layers. `loras`, null in the first loop, are for each layer,
// `routing`, null without experts, for all.
void heddle_run(Stretch* stretch, const Layer* layers, const LayerLora* loras, int num_layers,
                const Step* step, const LayerCache* caches, const Routing* routing, float* x) {
  stretch->run(layers, loras, num_layers, *step, x, caches, routing);
}

// What a thinking block does besides its layers, which `stretch` runs; both must outlive it.
Thinking* heddle_thinking(const Think* think, Stretch* stretch, Pool* pool) {
  return new Thinking(*think, *stretch, *pool);
}
void heddle_thinking_free(Thinking* thinking) { delete thinking; }

// Write the two readings of each row of h [row][width].
void heddle_read(Thinking* thinking, const float* h, int num_rows, float* said) {
  thinking->read(h, num_rows, said);
}

// Pass h [token][width] through the block once more, and read it.
void heddle_again(Thinking* thinking, const Layer* layers, const LayerLora* loras, int num_layers,
                  const Step* step, const LayerCache* caches, const Routing* routing, int loop,
                  const float* x, float* h, float* said) {
  thinking->again(loop, layers, loras, num_layers, *step, caches, routing, x, h, said);
}

// Write each token's share of the clusters; x [token][width].
void heddle_gate(Pool* pool, const Gate* gate, const Past* past, const float* x, int num_tokens,
                 float* shares) {
  share_clusters(*gate, *pool, x, num_tokens, *past, shares);
}

// Write what routers are told of tokens with these shares; `steer` may be null.
void heddle_tell(const Gate* gate, const float* shares, const float* steer, int num_tokens,
                 float* log_prior, float* bias) {
  tell_routers(*gate, shares, steer, num_tokens, log_prior, bias);
}

// Write m x for rows of x [row][cols] to out [row][rows].
void heddle_product(Pool* pool, const Matrix* m, const float* x, int num_rows, float* out) {
  static thread_local Rooms rooms;
  Rounded in = rooms.rounded(num_rows, m->cols);
  for (int t = 0; t < num_rows; ++t) round_row(x + (size_t)t * m->cols, in.row(t));
  const int pieces = std::min(m->panels(), 16 * pool->num_threads());
  pool->run(pieces, [&](int i) {
    const int first = (int)((int64_t)m->panels() * i / pieces);
    const int end = (int)((int64_t)m->panels() * (i + 1) / pieces);
    multiply(*m, in, num_rows, first, end, [&](int t, int p, const float* product) {
      write_panel(*m, p, product, out + (size_t)t * m->rows, false);
    });
  });
}

// Write rows of x [row][width], each scaled to a mean square of one and by `weight`, to out.
void heddle_normalise(const float* x, const float* weight, int num_rows, int width, float eps,
                      float* out) {
  for (int t = 0; t < num_rows; ++t)
    normalise(x + (size_t)t * width, weight, width, eps, out + (size_t)t * width);
}

// Write the rotation of each position: cosines and sines [position][channel], as `Step` has them.
void heddle_angles(const float* frequencies, int half, float magnitude, const int64_t* positions,
                   int count, float* cos, float* sin) {
  for (int t = 0; t < count; ++t, cos += 2 * half, sin += 2 * half)
    for (int i = 0; i < half; ++i) {
      const float angle = (float)positions[t] * frequencies[i];
      cos[i] = cos[half + i] = std::cos(angle) * magnitude;
      sin[half + i] = std::sin(angle) * magnitude;
      sin[i] = -sin[half + i];
    }
}

// Write rows of a matrix as numbers: the embedding of tokens. False for one that it does not have.
bool heddle_rows(const Matrix* m, const int64_t* rows, int count, float* out) {
  const int size = Matrix::group_bytes(m->kind);
  for (int i = 0; i < count; ++i) {
    if (rows[i] < 0 || rows[i] >= m->rows) return false;
    const uint8_t* panel = m->panel((int)(rows[i] / kPanel));
    const int r = (int)(rows[i] % kPanel);
    for (int g = 0; g < m->groups(); ++g, panel += size) {
      float* to = out + (size_t)i * m->cols + g * kGroup;
      uint16_t scale, offset = 0;
      std::memcpy(&scale, panel + (m->kind == kNibbles ? 256 : 512) + 2 * r, 2);
      if (m->kind == kNibbles) std::memcpy(&offset, panel + 288 + 2 * r, 2);
      for (int c = 0; c < kGroup; ++c) {
        int q;
        if (m->kind == kBytes) {
          q = (int8_t)panel[64 * (c / 4) + 4 * r + c % 4];
        } else {
          uint8_t both = panel[64 * (c % 16 / 4) + 4 * r + c % 4];
          q = c < 16 ? both & 15 : both >> 4;
        }
        to[c] = half_to_float(scale) * (float)q + half_to_float(offset);
      }
    }
  }
  return true;
}
}

// Puts the kernels through odd shapes, many threads and a fork; built with sanitisers by
// test_sanitised.py. Prints nothing and returns 0 when all is well.
#include <sys/wait.h>

#include <cstdio>
#include <random>

#include "../../heddle/kernels/native/cpu.cpp"

namespace {

std::mt19937 generator(7);

float normal() { return std::normal_distribution<float>()(generator); }

uint16_t half(float value) {  // of a normal number that float16 has
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return (uint16_t)((bits >> 16 & 0x8000) | (((bits >> 23 & 255) - 112) << 10) | (bits >> 13 & 1023));
}

struct OwnedMatrix : Matrix {
  std::vector<uint8_t> bytes;
  std::vector<float> biases;

  OwnedMatrix(int rows, int cols, Kind kind, bool has_bias) : Matrix{rows, cols, kind, 0, 0, 0} {
    const int size = group_bytes(kind), codes = kind == kNibbles ? 256 : 512;
    bytes.resize((size_t)panels() * groups() * size);
    for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = (uint8_t)generator();
    for (size_t at = codes; at < bytes.size(); at += size)
      for (int r = 0; r < (size - codes) / 2; ++r) {
        uint16_t scale = half(0.001f + 0.01f * (float)(r % 3));
        std::memcpy(&bytes[at + 2 * r], &scale, 2);
      }
    if (has_bias) for (int r = 0; r < rows; ++r) biases.push_back(normal());
    data = bytes.data();
    bias = has_bias ? biases.data() : nullptr;
  }
};

// Whether products equal those of the matrix's numbers, as far as 15 bits and float32 go.
bool products_are_right(Pool* pool, const OwnedMatrix& m, int num_rows) {
  std::vector<float> x((size_t)num_rows * m.cols), out((size_t)num_rows * m.rows);
  for (float& value : x) value = normal();
  heddle_product(pool, &m, x.data(), num_rows, out.data());
  std::vector<float> row(m.cols);
  for (int r = 0; r < m.rows; ++r) {
    const int64_t number = r;
    heddle_rows(&m, &number, 1, row.data());
    for (int t = 0; t < num_rows; ++t) {
      double sum = m.bias ? m.bias[r] : 0, size = 1e-3;
      for (int c = 0; c < m.cols; ++c) {
        double product = (double)row[c] * x[(size_t)t * m.cols + c];
        sum += product, size += std::fabs(product);
      }
      if (std::fabs(sum - out[(size_t)t * m.rows + r]) > 1e-3 * size) return false;
    }
  }
  return true;
}

constexpr int kChannels = 20, kClusters = 5;
const float kZeros[3] = {};
const int64_t kClusterOf[3] = {0, 4, 2};

struct Network {
  Shape shape;
  std::vector<OwnedMatrix> matrices;
  std::vector<std::vector<float>> norms;
  std::vector<float> salience, mass, scores, widths{64, 0, 20}, steps;
  std::vector<Layer> layers;
  std::vector<LayerLora> loras;
  std::vector<Expert> mixed;
  Experts experts;
  Think think;
  Gate gate;

  Network(Shape s, Kind kind) : shape(s) {
    const int q = s.num_heads * s.head_width, kv = s.num_kv_heads * s.head_width;
    const int inner[4][2] = {
        {s.width, q + 2 * kv}, {q, s.width}, {s.width, 2 * s.ffn_width}, {s.ffn_width, s.width}};
    for (int i = 0; i < 2; ++i) {
      matrices.emplace_back(q + 2 * kv, s.width, kind, true);
      matrices.emplace_back(s.width, q, kind, false);
      matrices.emplace_back(2 * s.ffn_width, s.width, kind, false);
      matrices.emplace_back(s.width, s.ffn_width, kind, true);
    }
    for (int i = 0; i < 2; ++i)
      for (const auto& [from, to] : inner) {
        matrices.emplace_back(20, from, kBytes, false);
        matrices.emplace_back(to, 32, kBytes, false);
      }
    for (int i = 0; i < 2; ++i) {
      const OwnedMatrix* m = &matrices[8 + 8 * i];
      loras.push_back({{m[0], m[1]}, {m[2], m[3]}, {m[4], m[5]}, {m[6], m[7]}});
    }
    const int own = (int)matrices.size();
    for (int width : {64, 0, 32}) {
      matrices.emplace_back(2 * width, s.width, kBytes, false);
      matrices.emplace_back(s.width, width, kBytes, false);
    }
    matrices.emplace_back(20, 2 * s.width, kBytes, false);
    matrices.emplace_back(s.width, 32, kBytes, false);
    matrices.emplace_back(s.width, s.width, kBytes, true);
    matrices.emplace_back(2, s.width, kBytes, true);
    matrices.emplace_back(kChannels, s.width, kBytes, false);
    matrices.emplace_back(kClusters, s.width + 32, kBytes, true);
    const OwnedMatrix* m = &matrices[own];
    for (int i = 0; i < 3; ++i) mixed.push_back({m[2 * i], m[2 * i + 1]});
    for (int i = 0; i < 3 * s.width; ++i) scores.push_back(0.1f * normal());
    for (int i = 0; i < s.width; ++i) steps.push_back(0.1f * normal());
    experts = {3, 2, 0.9f, 1, scores.data(), widths.data(), kZeros, mixed.data()};
    for (int i = 0; i < 8; ++i) norms.emplace_back(2 * std::max(s.width, s.head_width), 1.0f);
    think = {norms[0].data(), steps.data(), norms[0].data(), {m[6], m[7]}, m[8], m[9], 1e-6f, 1e-6f};
    gate = {norms[0].data(), m[10], m[11], 1e-6f, 0.9f, 1.5f, 3, kClusterOf, kZeros};
    for (int i = 0; i < 2 * kv; ++i) salience.push_back(normal());
    for (int i = 0; i < 2; ++i) mass.push_back(normal());
    for (int i = 0; i < 2; ++i) {
      const bool has_norms = i == 1;
      layers.push_back({norms[4 * i].data(), norms[4 * i + 1].data(),
                        has_norms ? norms[4 * i + 2].data() : nullptr,
                        has_norms ? norms[4 * i + 3].data() : nullptr, matrices[4 * i],
                        matrices[4 * i + 1], matrices[4 * i + 2], matrices[4 * i + 3], &experts,
                        {salience.data(), mass.data()}});
    }
  }
};

constexpr int kBlock = 48;

// Two tiers: a run of 16 slots of a block, and six that lie by themselves. With an index blocks have
// four keys each, and most are further away than distances go.
struct OwnedMemory : Memory {
  std::vector<float> cos, sin, speeds;
  Tier tier[2];

  OwnedMemory(const Shape& s, int num_paged, bool has_index = false)
      : Memory{kBlock, 4, 1, num_paged, 2, 0, tier, INT64_MAX, nullptr, nullptr, nullptr} {
    for (int i = 0; i < s.head_width / 2; ++i) speeds.push_back(1.0f / (1 + i));
    for (int i = 0; i < 12 * s.head_width; ++i) cos.push_back(normal()), sin.push_back(normal());
    tier[0] = {3, 0, 1, cos.data(), sin.data()};
    tier[1] = {8, 0, INT64_MAX, cos.data(), sin.data()};
    if (!has_index) return;
    index_ratio = 12, distance_blocks = 1;
    index_cos = cos.data(), index_sin = sin.data(), frequencies = speeds.data();
  }
};

// Two layers' caches. They start as NaN, in bfloat16 by halves: nothing may be read that was not
// written.
struct Caches {
  std::vector<std::vector<uint32_t>> rooms;
  LayerCache layers[2], slots[6];

  Caches(const Shape& s, int num_places, const Memory* memory) {
    for (int i = 0; i < 2; ++i) {
      for (int tier = 0; memory && tier < 2; ++tier)
        slots[3 * i + tier] = make(s, num_places / memory->tiers[tier].ratio, nullptr);
      if (memory && memory->index_ratio) {
        slots[3 * i + 2] = make(s, num_places / memory->index_ratio, nullptr);
        slots[3 * i + 2].v = slots[3 * i + 2].v_scale = nullptr;
      }
      layers[i] = make(s, num_places, memory ? slots + 3 * i : nullptr);
    }
  }

  LayerCache make(const Shape& s, int num_places, const LayerCache* tiers) {
    const size_t size = (size_t)num_places * s.num_kv_heads * s.head_width;
    for (int i = 0; i < 4; ++i) rooms.emplace_back(size, 0x7fc07fc0);
    std::vector<uint32_t>* room = &rooms.back() - 3;
    return {room[0].data(), room[1].data(), (float*)room[2].data(), (float*)room[3].data(), tiers};
  }
};

// A sequence's tokens as they are read: its pages, and what each block left behind in a later loop.
struct Reader {
  std::vector<int64_t> pages;
  std::vector<std::vector<uint32_t>> data;
  std::vector<uint64_t> present;
  std::vector<Own> own;

  Reader(const Shape& s, int num_blocks, int block_tokens) : present(num_blocks) {
    const size_t size = (size_t)2 * 2 * s.num_kv_heads * block_tokens * (s.head_width + 1);
    for (int i = 0; i < num_blocks; ++i) data.emplace_back(size, 0);
    for (int i = 0; i < num_blocks; ++i) own.push_back({(uint8_t*)data[i].data(), &present[i]});
  }
};

// One step of rows of two sequences, as `heddle_run` takes it.
struct Rows {
  std::vector<float> x, cos, sin;
  std::vector<int64_t> positions, places;
  std::vector<Sequence> sequences;

  void add(const Shape& s, const float* state, int64_t position, int64_t place) {
    x.insert(x.end(), state, state + s.width);
    positions.push_back(position);
    places.push_back(place);
    for (int c = 0; c < s.head_width; ++c) {
      cos.push_back(std::cos(0.1f * (float)position));
      sin.push_back(std::sin(0.1f * (float)position) * (c < s.head_width / 2 ? -1.0f : 1.0f));
    }
  }

  void end_sequence(int start, Reader& reader, int block_tokens) {
    const int64_t block = block_tokens ? positions[start] / block_tokens : 0;
    sequences.push_back({start, (int)positions.size(), reader.pages.data(),
                         block_tokens ? &reader.own[block] : nullptr, block});
  }

  // The first loop, or with `thinking` the second of rows that came into the block as `entered`.
  // Readings and experts' widths are put behind the states.
  void run(Pool* pool, Stretch* stretch, Network& network, int page_tokens, CacheKind kind,
           const LayerCache* caches, float* mean, Thinking* thinking, const float* entered) {
    const int num = (int)positions.size();
    const Step step{num, (int)sequences.size(), page_tokens, kind, thinking ? kBlock : 0, 0,
                    cos.data(), sin.data(), positions.data(), places.data(), sequences.data()};
    std::vector<float> shares(num * kClusters, 0.2f), told(2 * 3 * num), chosen(3 * 2 * 3 * num);
    std::vector<float> said(2 * num), channels(num);
    const Past past{sequences.data(), positions.data(), step.num_sequences, page_tokens, mean};
    if (!thinking) heddle_gate(pool, &network.gate, &past, x.data(), num, shares.data());
    heddle_tell(&network.gate, shares.data(), thinking ? nullptr : shares.data(), num, &told[0],
                &told[3 * num]);
    const Routing routing{&told[0], &told[3 * num], &chosen[0], &chosen[6 * num], &chosen[12 * num],
                          channels.data()};
    if (thinking)
      heddle_again(thinking, network.layers.data(), network.loras.data(), 2, &step, caches, &routing,
                   2, entered, x.data(), said.data());
    else
      heddle_run(stretch, network.layers.data(), nullptr, 2, &step, caches, &routing, x.data());
    for (int t = 0; t < num; ++t) x[(size_t)t * network.shape.width] += said[2 * t] + channels[t];
  }
};

// The states of 150 tokens of one sequence and 20 of another, read in steps of at most `most`. Two
// of three tokens pass all layers once more.
std::vector<float> states(Pool* pool, Network& network, CacheKind cache_kind, int page_tokens,
                          int most, const Memory* memory = nullptr) {
  const Shape& s = network.shape;
  const int lengths[2] = {150, 20}, num_pages = 2 * (160 / page_tokens + 1);
  const Caches caches(s, num_pages * page_tokens, memory);
  Reader readers[2] = {{s, 4, kBlock}, {s, 4, kBlock}};
  for (int i = 0; i < num_pages; ++i) readers[i % 2].pages.push_back(num_pages - 1 - i);
  std::vector<float> input((size_t)170 * s.width), kept[2];
  std::mt19937 same(1);
  for (float& value : input) value = std::normal_distribution<float>()(same);
  std::vector<float> mean((size_t)num_pages * kChannels, NAN);
  Stretch* stretch = heddle_stretch(&s, memory, pool);
  Thinking* thinking = heddle_thinking(&network.think, stretch, pool);
  for (int done = 0; done < 150; done += most) {
    Rows first, again;
    std::vector<int> deep;
    std::vector<float> entered;
    for (int n = 0; n < 2; ++n) {
      const int from = std::min(done, lengths[n]), end = std::min(done + most, lengths[n]);
      const int start = (int)first.positions.size();
      for (int t = from; t < end; ++t)
        first.add(s, &input[(size_t)(n * 150 + t) * s.width], t,
                  readers[n].pages[t / page_tokens] * page_tokens + t % page_tokens);
      if (from < end) first.end_sequence(start, readers[n], 0);
    }
    const std::vector<float> came = first.x;
    first.run(pool, stretch, network, page_tokens, cache_kind, caches.layers, mean.data(), nullptr,
              nullptr);
    for (const Sequence& sequence : first.sequences) {
      const int start = (int)again.positions.size();
      for (int t = sequence.start; t < sequence.end; ++t)
        if (first.positions[t] % 3) {
          again.add(s, &first.x[(size_t)t * s.width], first.positions[t], -1);
          entered.insert(entered.end(), &came[(size_t)t * s.width], &came[(size_t)t * s.width] + s.width);
          deep.push_back(t);
        }
      const int number = sequence.pages == readers[0].pages.data() ? 0 : 1;
      if (start < (int)deep.size()) again.end_sequence(start, readers[number], kBlock);
    }
    if (!deep.empty())
      again.run(pool, stretch, network, page_tokens, cache_kind, caches.layers, mean.data(), thinking,
                entered.data());
    for (size_t i = 0; i < deep.size(); ++i)
      std::copy_n(&again.x[i * s.width], s.width, &first.x[(size_t)deep[i] * s.width]);
    for (const Sequence& q : first.sequences) {
      std::vector<float>& to = kept[q.pages == readers[0].pages.data() ? 0 : 1];
      to.insert(to.end(), first.x.begin() + (size_t)q.start * s.width,
                first.x.begin() + (size_t)q.end * s.width);
    }
  }
  heddle_thinking_free(thinking);
  heddle_stretch_free(stretch);
  kept[0].insert(kept[0].end(), kept[1].begin(), kept[1].end());
  return kept[0];
}

bool equal_and_finite(const std::vector<float>& a, const std::vector<float>& b) {
  for (float value : a) if (!std::isfinite(value)) return false;
  return a.size() == b.size() && !std::memcmp(a.data(), b.data(), a.size() * sizeof(float));
}

bool contradictions_are_refused(Pool* pool) {
  const Shape shape{64, 4, 2, 16, 96, 1e-5f};
  const OwnedMemory sound(shape, 1);
  const Tier uneven{5, 0, 1, nullptr, nullptr}, negative{4, 0, -1, nullptr, nullptr};
  const OwnedMemory indexed(shape, 1, true);
  std::vector<Memory> wrong(9, sound);
  wrong.resize(12, indexed);
  wrong[9].index_ratio = 5;
  wrong[10].frequencies = nullptr;
  wrong[11].index_ratio = 0;
  wrong[0].block_tokens = 0;
  wrong[1].block_tokens = 40;
  wrong[2].sink_tokens = -1;
  wrong[3].sink_tokens = kBlock + 1;
  wrong[4].window_blocks = 0;
  wrong[5].paged_blocks = -1;
  wrong[6].num_tiers = 0;
  wrong[7].num_tiers = wrong[8].num_tiers = 1;
  wrong[7].tiers = &uneven, wrong[8].tiers = &negative;
  return std::none_of(wrong.begin(), wrong.end(), [&](const Memory& memory) {
    return heddle_stretch(&shape, &memory, pool);
  });
}

bool pages_are_chosen_by_score() {
  const float score[] = {NAN, 2, 0, 3, 2, -1};
  int64_t chosen[5];
  choose_blocks(score, 6, 2, chosen);
  if (chosen[0] != 3 || chosen[1] != 1) return false;
  choose_blocks(score, 6, 5, chosen);
  return chosen[2] == 4 && chosen[3] == -1 && chosen[4] == -1;
}

int failed(const char* what) {
  std::fprintf(stderr, "%s\n", what);
  return 1;
}

}  // namespace

int main() {
  Pool* pool = heddle_pool(3);
  for (Kind kind : {kNibbles, kBytes})
    for (int rows : {1, 16, 33})
      for (int cols : {32, 96})
        for (int num_rows : {1, 4, 7})
          if (!products_are_right(pool, OwnedMatrix(rows, cols, kind, rows == 33), num_rows))
            return failed("a product is wrong");
  for (Kind kind : {kNibbles, kBytes})
    for (Shape shape : {Shape{64, 4, 2, 16, 96, 1e-5f}, Shape{96, 3, 1, 32, 32, 1e-5f}}) {
      Network network(shape, kind);
      for (CacheKind cache : {kFloat, kBfloat, kInt8}) {
        std::vector<float> whole = states(pool, network, cache, 16, 150);
        for (int most : {1, 37})
          if (!equal_and_finite(whole, states(pool, network, cache, most == 1 ? 64 : 32, most)))
            return failed("batching changes bits");
        if (kind == kBytes) continue;  // attention does not know of it
        const int most = shape.num_kv_heads == 1 ? 1 : 37;
        const bool has_index = (shape.num_kv_heads == 1) != (cache == kFloat);
        const OwnedMemory memory(shape, cache == kBfloat && !has_index ? 0 : 1, has_index);
        whole = states(pool, network, cache, kBlock, 150, &memory);
        if (!equal_and_finite(whole, states(pool, network, cache, kBlock, most, &memory)))
          return failed("batching changes bits of what slots show");
      }
    }
  if (!contradictions_are_refused(pool)) return failed("a memory that cannot be is taken");
  if (!pages_are_chosen_by_score()) return failed("other pages are chosen");
  const OwnedMatrix shared(160, 64, kNibbles, false);
  const pid_t child = fork();
  if (child == 0) {
    const bool is_right = products_are_right(pool, shared, 2);
    heddle_pool_free(pool);
    _exit(is_right ? 0 : 1);
  }
  int status = 1;
  waitpid(child, &status, 0);
  if (status) return failed("a forked process fails");
  heddle_pool_free(pool);
  return 0;
}

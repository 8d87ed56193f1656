// A layer's choice of experts and their mix: what `heddle/model/router.py` and `experts.py` say in
// Python, for tokens of a step.
#pragma once

#include <algorithm>
#include <vector>

#include "pool.h"
#include "product.h"
#include "rooms.h"

namespace heddle {

// A gated expert; `gate_up` has gates and ups, each `down.cols` rows, in turns of a group.
struct Expert {
  Matrix gate_up, down;
};

struct Experts {
  int32_t num, most;  // experts in all; of one token at most
  float mass, prior;  // fewer as soon as they hold this probability; the weight of the gate's say
  const float* scores;   // [expert][width]
  const float* widths;   // as the account has them: experts' own are filled up to whole groups
  const float* balance;  // [expert], added where experts are chosen
  const Expert* experts;
};

// What the gate and the request say of a step's tokens, [token][expert], where the choices of layers
// go, [layer][token][expert], and what each token's experts are added up to in widths, [token].
struct Routing {
  const float *log_prior, *bias;
  float *logits, *probability, *weight, *channels;

  Routing of_layer(int i, size_t size) const {
    return {log_prior, bias, logits + i * size, probability + i * size, weight + i * size, channels};
  }
};

// Choose a token's experts from what the feed-forward reads of it.
inline void choose(const Experts& e, const float* read, int width, const Routing& to, int t) {
  const size_t at = (size_t)t * e.num;
  float *logits = to.logits + at, *probability = to.probability + at, *weight = to.weight + at;
  float top = -INFINITY, total = 0, taken = 0;
  for (int i = 0; i < e.num; ++i) {
    Vec product{};
    for (int c = 0; c < width; c += kLanes)
      product = fma(load(read + c), load(e.scores + (size_t)i * width + c), product);
    logits[i] = sum(product) + to.bias[at + i] + e.prior * to.log_prior[at + i];
    top = std::max(top, logits[i]);
  }
  for (int i = 0; i < e.num; ++i) total += probability[i] = std::exp(logits[i] - top);
  for (int i = 0; i < e.num; ++i) probability[i] /= total, weight[i] = 0;
  float mass = 0;
  for (int n = 0; n < e.most && mass < e.mass; ++n) {
    int best = -1;
    for (int i = 0; i < e.num; ++i)
      if (weight[i] == 0 && probability[i] > 0 &&
          (best < 0 || probability[i] + e.balance[i] > probability[best] + e.balance[best]))
        best = i;
    if (best < 0) break;
    mass += weight[best] = probability[best];
    to.channels[t] += e.widths[best];
  }
  for (int i = 0; i < e.num; ++i) taken += weight[i];
  for (int i = 0; i < e.num; ++i) weight[i] /= taken;
}

// The chosen experts of a step's tokens in one layer, whose gated products and mix are computed
// beside those of the feed-forward.
class Mixer {
 public:
  // Begin a layer, whose feed-forward reads rows: as they are, and rounded.
  void begin(const Experts& e, const Routing& routing, const float* read, const Rounded& in,
             int num) {
    experts_ = &e, routing_ = routing, read_ = read, in_ = in, num_ = num;
    jobs_.clear(), units_.clear();
  }

  void clear() { experts_ = nullptr, jobs_.clear(), units_.clear(); }
  bool has_begun() const { return experts_; }

  // So many calls of `choose_rows` are to come.
  void expect(int num) { num_choosing_.store(num, std::memory_order_relaxed); }

  // Choose experts for some rows. Who is the last one lists what is to be computed.
  void choose_rows(int first, int end) {
    for (int t = first; t < end; ++t)
      choose(*experts_, read_ + (size_t)t * in_.cols, in_.cols, routing_, t);
    if (num_choosing_.fetch_sub(1, std::memory_order_acq_rel) > 1) return;
    gather();
    num_choosing_.store(-1, std::memory_order_release);
  }

  // Compute piece `i` of `pieces` of the gated products, as soon as experts are chosen. For few rows
  // an expert is a piece, down to its outputs: its matrices lie together, are read as one stream,
  // and stay with the thread that read them.
  void gate(int i, int pieces) {
    wait_until([&] { return num_choosing_.load(std::memory_order_acquire) < 0; });
    const int num = (int)(has_few() ? jobs_.size() : units_.size());
    for (int u = num * i / pieces; u < num * (i + 1) / pieces; ++u)
      if (has_few()) whole(jobs_[u]);
      else gate(jobs_[units_[u].job], units_[u].group);
  }

  // Add panels `first` to `end` - 1 of the experts' mix to x [token][width].
  void mix(int first, int end, float* x) const {
    for (const Job& job : jobs_) {
      const Matrix& down = job.expert->down;
      const auto write = [&](int n, int p, const float* product) {
        write_panel(down, p, product, x + (size_t)job.tokens[n] * down.rows, true);
      };
      if (!has_few()) multiply(down, job.gated, job.num(), first, end, write);
      else
        for (int p = first; p < end; ++p)
          for (int n = 0; n < job.num(); ++n) write(n, p, &job.out[(n * down.panels() + p) * kPanel]);
    }
  }

 private:
  struct Job {
    const Expert* expert;
    std::vector<int> tokens;
    std::vector<float> weights;
    Rounded in, gated;
    std::vector<float> out;  // [row][panel][row of a panel], if it is there before it is mixed

    int num() const { return (int)tokens.size(); }
  };

  struct Unit {
    int job, group;
  };

  static constexpr int kFew = 4;
  bool has_few() const { return num_ <= kFew; }

  static void gate(const Job& job, int group) {
    gate_group(job.expert->gate_up, {job.in, {}}, job.num(), group, job.gated, job.weights.data());
  }

  static void whole(Job& job) {
    const Matrix &gate_up = job.expert->gate_up, &down = job.expert->down;
    fetch(gate_up.data, gate_up.bytes());
    fetch(down.data, down.bytes());
    for (int g = 0; g < job.gated.groups(); ++g) gate(job, g);
    job.out.resize((size_t)job.num() * down.panels() * kPanel);
    multiply(down, job.gated, job.num(), 0, down.panels(), [&](int n, int p, const float* product) {
      std::memcpy(&job.out[(n * down.panels() + p) * kPanel], product, sizeof(float) * kPanel);
    });
  }

  // List each expert's tokens, with copies of what they read.
  void gather() {
    const int num_experts = experts_->num;
    rooms_.resize(std::max(rooms_.size(), 2 * (size_t)num_experts));
    for (int i = 0; i < num_experts; ++i) {
      const Expert& expert = experts_->experts[i];
      if (expert.down.cols == 0) continue;  // the expert that does nothing
      Job job{&expert, {}, {}, {}, {}, {}};
      for (int t = 0; t < num_; ++t)
        if (const float weight = routing_.weight[(size_t)t * num_experts + i]; weight > 0)
          job.tokens.push_back(t), job.weights.push_back(weight);
      if (job.tokens.empty()) continue;
      job.in = rooms_[2 * i].rounded(job.num(), in_.cols);
      job.gated = rooms_[2 * i + 1].rounded(job.num(), expert.down.cols);
      for (int n = 0; n < job.num(); ++n) copy_row(in_.row(job.tokens[n]), job.in.row(n));
      for (int g = 0; g < job.gated.groups(); ++g) units_.push_back({(int)jobs_.size(), g});
      jobs_.push_back(std::move(job));
    }
  }

  const Experts* experts_ = nullptr;  // of the layer at hand, if it has any
  Routing routing_{};
  const float* read_ = nullptr;
  Rounded in_{};
  int num_ = 0;
  std::atomic<int> num_choosing_{-1};
  std::vector<Job> jobs_;
  std::vector<Unit> units_;
  std::vector<Rooms> rooms_;
};

}  // namespace heddle

// A layer's choice of experts and their mix: what `heddle/model/router.py` and `experts.py` say in
// Python, for tokens of a step.
#pragma once

#include <algorithm>
#include <vector>

#include "product.h"
#include "pool.h"
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
  const float* balance;  // [expert], added where experts are chosen
  const Expert* experts;
};

// What the gate and the request say of a step's tokens, and where the choice goes, [token][expert].
struct Routing {
  const float *log_prior, *bias;
  float *logits, *probability, *weight;
};

inline void choose(const Experts& e, const float* read, int width, const Routing& to, size_t at) {
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
  }
  for (int i = 0; i < e.num; ++i) taken += weight[i];
  for (int i = 0; i < e.num; ++i) weight[i] /= taken;
}

// Mixes experts' outputs into states.
class Mixer {
 public:
  explicit Mixer(Pool& pool) : pool_(pool) {}

  // Choose experts for each token, from what the feed-forward reads, and add their mix to x.
  void run(const Experts& e, const Routing& routing, const float* read, const Rounded& in, int num,
           int width, float* x) {
    for (int t = 0; t < num; ++t)
      choose(e, read + (size_t)t * width, width, routing, (size_t)t * e.num);
    gather(e, routing, in, num);
    gate();
    const int panels = (width + kPanel - 1) / kPanel;
    const int pieces = std::min(panels, 4 * pool_.num_threads());
    pool_.run(pieces, [&](int i) {
      for (const Job& job : jobs_)
        multiply(job.expert->down, job.gated, job.num(), panels * i / pieces,
                 panels * (i + 1) / pieces, [&](int n, int p, const float* product) {
                   write_panel(job.expert->down, p, product, x + (size_t)job.tokens[n] * width,
                               true);
                 });
    });
  }

 private:
  struct Job {
    const Expert* expert;
    std::vector<int> tokens;
    std::vector<float> weights;
    Rounded in, gated;

    int num() const { return (int)tokens.size(); }
  };

  // List each expert's tokens, with copies of what they read.
  void gather(const Experts& e, const Routing& routing, const Rounded& in, int num) {
    jobs_.clear();
    rooms_.resize(std::max(rooms_.size(), 2 * (size_t)e.num));
    for (int i = 0; i < e.num; ++i) {
      if (e.experts[i].down.cols == 0) continue;  // the expert that does nothing
      Job job{&e.experts[i], {}, {}, {}, {}};
      for (int t = 0; t < num; ++t)
        if (const float weight = routing.weight[(size_t)t * e.num + i]; weight > 0)
          job.tokens.push_back(t), job.weights.push_back(weight);
      if (job.tokens.empty()) continue;
      job.in = rooms_[2 * i].rounded(job.num(), in.cols);
      job.gated = rooms_[2 * i + 1].rounded(job.num(), job.expert->down.cols);
      for (int n = 0; n < job.num(); ++n) {
        copy_row(in.row(job.tokens[n]), job.in.row(n));
      }
      jobs_.push_back(std::move(job));
    }
  }

  void gate() {
    units_.clear();
    for (const Job& job : jobs_)
      for (int g = 0; g < job.gated.groups(); ++g) units_.push_back({&job, g});
    pool_.run((int)units_.size(), [&](int i) {
      const Job& job = *units_[i].job;
      gate_group(job.expert->gate_up, {job.in, {}}, job.num(), units_[i].group, job.gated,
                 job.weights.data());
    });
  }

  struct Unit {
    const Job* job;
    int group;
  };

  Pool& pool_;
  std::vector<Job> jobs_;
  std::vector<Unit> units_;
  std::vector<Rooms> rooms_;
};

}  // namespace heddle

// Shares a step's attention out over threads.
#pragma once

#include "attention.h"
#include "pool.h"

namespace heddle {

// Choose the blocks of highest score, if above 0: `num` at most, -1 for those that are missing.
inline void choose_blocks(const float* score, int num_blocks, int num, int64_t* chosen) {
  static thread_local std::vector<int64_t> blocks;
  blocks.clear();
  for (int block = 0; block < num_blocks; ++block)
    if (score[block] > 0) blocks.push_back(block);
  const auto end = blocks.begin() + std::min(num, (int)blocks.size());
  std::partial_sort(blocks.begin(), end, blocks.end(), [&](int64_t a, int64_t b) {
    return score[a] != score[b] ? score[a] > score[b] : a < b;
  });
  std::fill(std::copy(blocks.begin(), end, chosen), chosen + num, -1);
}

class Reading {
 public:
  Reading(Pool& pool, int num_heads, int num_kv_heads, int head_width, const Memory* memory)
      : pool_(pool), num_kv_heads_(num_kv_heads), num_sharing_(num_heads / num_kv_heads),
        head_width_(head_width), memory_(memory) {}

  // Plan a step's attention, which is the same in every layer. A later loop has blocks of
  // `block_tokens`.
  void plan(const Sequence* sequences, int num_sequences, const int64_t* positions,
            int block_tokens) {
    groups_.clear(), places_.clear(), pieces_.clear(), entered_.clear();
    sight_ = {positions, block_tokens, 0, memory_, nullptr, &turns_};
    num_rows_ = 0, num_old_ = 0;
    for (int s = 0; s < num_sequences; ++s) {
      const Sequence& sequence = sequences[s];
      for (int first = sequence.start; first < sequence.end; first += RowGroup::kMost)
        add_rows(sequence, first, std::min(first + RowGroup::kMost, sequence.end));
      if (memory_ && !block_tokens) find_entered(sequence, positions);
    }
    for (const RowGroup& group : groups_)
      for (int h = 0; h < num_kv_heads_; ++h) pieces_.push_back({group, h, 0, group.num});
    find_splits();
    std::sort(entered_.begin(), entered_.end());
    entered_.erase(std::unique(entered_.begin(), entered_.end()), entered_.end());
    if (memory_) chosen_.resize((size_t)num_rows_ * memory_->paged_blocks);
    if (memory_ && memory_->index_ratio) turns_.reach(num_old_, *memory_, head_width_);
    sight_.chosen = chosen_.data();
  }

  const std::vector<Piece>& pieces() const { return pieces_; }

  // The attention over a layer, in a later loop that of place `number` in the loop's own pages.
  template <class T>
  Attention<T> over(const Cache<T>& cache, const Pooler& pooler, const LayerCache* slots, int number,
                    const Queries& queries) {
    sight_.layer = number;
    return {cache, {memory_, pooler, slots, cache}, sight_, places_.data(), queries};
  }

  // Put each row's attention in the place of its queries. A block's slots are made when rows first
  // see it through them: its keys are then those of the last loop. Pieces of other work, `early(0)`
  // to `early(num_early - 1)`, go before.
  template <class T, class Early>
  void attend(const Attention<T>& attention, int num_early, const Early& early) {
    pool_.run((int)entered_.size() * num_kv_heads_, [&](int i) {
      const Entered& entered = entered_[i / num_kv_heads_];
      attention.slots().make(entered.page, entered.block, i % num_kv_heads_, turns_);
    });
    if (num_old_ > 0 && memory_->paged_blocks > 0) choose_pages(attention);
    if (splits_.empty()) {
      pool_.run(num_early + (int)pieces_.size(), [&](int i) {
        if (i < num_early) return early(i);
        attention.whole(pieces_[i - num_early]);
      });
      return;
    }
    parts_.resize(std::max(parts_.size(), num_parts_));
    sums_.resize(std::max(sums_.size(), num_parts_ * head_width_));
    pool_.run(num_early + (int)splits_.size(), [&](int i) {
      if (i < num_early) return early(i);
      const Split& split = splits_[i - num_early];
      attention.partly(split.piece, &parts_[split.at], &sums_[split.at * head_width_]);
    });
    size_t at = 0;
    for (const Piece& whole : pieces_) {
      attention.join(whole, &parts_[at]);
      at += (size_t)attention.num_parts(whole) * whole.to;
    }
  }

 private:
  void add_rows(const Sequence& sequence, int first, int end) {
    num_rows_ = end;
    const size_t at = places_.size();
    sight_.list(first, end, places_);
    groups_.push_back({&sequence, first, end, at, (int)(places_.size() - at)});
    if (memory_) num_old_ = std::max(num_old_, memory_->num_old(sight_.positions[end - 1]));
  }

  // Find the blocks that become old in a step. Sequences may share their pages.
  void find_entered(const Sequence& sequence, const int64_t* positions) {
    for (int t = sequence.start; t < sequence.end; ++t) {
      const int64_t block = memory_->num_old(positions[t]) - 1;
      if (positions[t] % memory_->block_tokens == 0 && block >= 0)
        entered_.push_back({sequence.pages[block], block});
    }
  }

  // Where few rows look far back, chunks are shared out, too.
  void find_splits() {
    constexpr int kLeastChunks = 4;
    splits_.clear();
    num_parts_ = 0;
    int most_chunks = 0;
    for (const Piece& piece : pieces_) most_chunks = std::max(most_chunks, piece.to);
    if ((int)pieces_.size() >= 4 * pool_.num_threads() || most_chunks < 2 * kLeastChunks) return;
    for (const Piece& whole : pieces_)
      for (int from = 0; from < whole.to; from += kLeastChunks) {
        Piece part = whole;
        part.from = from, part.to = std::min(from + kLeastChunks, whole.to);
        splits_.push_back({part, num_parts_});
        num_parts_ += (size_t)(part.rows.end - part.rows.first) * num_sharing_ * (part.to - part.from);
      }
  }

  // Choose for each row the blocks that it reads exactly, by their slots or by the index.
  // `heddle/model/paging.py` says it in Python, with its source.
  template <class T>
  void choose_pages(const Attention<T>& attention) {
    std::fill(chosen_.begin(), chosen_.end(), -1);
    const size_t stride = num_kv_heads_ * num_old_;
    scores_.resize(std::max(scores_.size(), num_rows_ * stride));
    pool_.run((int)pieces_.size(), [&](int i) {
      const Piece& piece = pieces_[i];
      float* score = &scores_[piece.rows.first * stride + piece.kv_head * num_old_];
      if (memory_->index_ratio) attention.score_index(piece, score, stride);
      else attention.score(piece, score, stride);
    });
    pool_.run((int)groups_.size(), [&](int i) {
      const RowGroup& group = groups_[i];
      const int num_old = (int)memory_->num_old(sight_.positions[group.end - 1]);
      for (int t = group.first; t < group.end; ++t) {
        float* score = &scores_[t * stride];
        for (int h = 1; h < num_kv_heads_; ++h)
          for (int block = 0; block < num_old; ++block) score[block] += score[h * num_old_ + block];
        choose_blocks(score, num_old, memory_->paged_blocks,
                      &chosen_[(size_t)t * memory_->paged_blocks]);
      }
      list_chosen(group);
    });
  }

  // Put what rows have chosen in their list.
  void list_chosen(const RowGroup& group) {
    static thread_local std::vector<int64_t> blocks;
    const int num = memory_->paged_blocks, words = Sight::words(memory_->block_tokens);
    blocks.assign(chosen_.data() + (size_t)group.first * num, chosen_.data() + (size_t)group.end * num);
    std::sort(blocks.begin(), blocks.end());
    blocks.erase(std::unique(blocks.begin(), blocks.end()), blocks.end());
    blocks.erase(blocks.begin(), std::lower_bound(blocks.begin(), blocks.end(), 0));
    size_t number = 0;
    for (size_t at = group.at; at < group.at + group.num; ++at) {
      if (places_[at].kind != Place::kPaged) continue;
      const size_t block = number / words, word = number % words;
      places_[at].first = -1;
      if (block < blocks.size())
        places_[at].first = blocks[block] * memory_->block_tokens + word * kChunk;
      ++number;
    }
  }

  struct Split {
    Piece piece;
    size_t at;  // of its first part
  };

  struct Entered {
    int64_t page, block;
    bool operator<(const Entered& other) const { return page < other.page; }
    bool operator==(const Entered& other) const { return page == other.page; }
  };

  Pool& pool_;
  const int num_kv_heads_, num_sharing_, head_width_;  // `num_sharing_` heads share a kv head
  const Memory* const memory_;  // or null
  Sight sight_{};
  std::vector<RowGroup> groups_;
  std::vector<Place> places_;
  std::vector<Piece> pieces_;
  std::vector<Split> splits_;  // empty where pieces stay whole
  size_t num_parts_ = 0;       // of all splits
  std::vector<Part> parts_;
  std::vector<float> sums_;
  std::vector<Entered> entered_;  // blocks that become old in this step
  int num_rows_ = 0;
  int64_t num_old_ = 0;           // blocks that some row sees as old
  std::vector<float> scores_;     // [row][kv head][old block]
  std::vector<int64_t> chosen_;   // [row][paged block]
  Turns turns_;
};

}  // namespace heddle

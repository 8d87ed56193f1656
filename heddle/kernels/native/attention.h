// Grouped-query attention over a step's rows (Ainslie et al. 2023, arXiv:2305.13245).
//
// Each chunk is worked out by itself and then merged, in order. So a row's bits depend neither on the
// rows beside it nor on who computed which chunk.
#pragma once

#include "slots.h"

namespace heddle {

// Rows `first` to `end` - 1 of a sequence, that meet `num` places of a list from `at` on.
struct RowGroup {
  static constexpr int kMost = 16;
  const Sequence* sequence;
  int first, end;
  size_t at;
  int num;
};

// A piece of a step's attention: some rows, the heads that share a kv head, and chunks `from` to
// `to` - 1 of those that the rows meet.
struct Piece {
  RowGroup rows;
  int kv_head, from, to;
};

// All heads' scaled queries, [row][stride], in whose place attention is put.
struct Queries {
  float* rows;
  int stride, num_heads;
};

template <class T>
class Attention {
 public:
  Attention(const Cache<T>& cache, const Slots<T>& slots, const Sight& sight, const Place* places,
            const Queries& queries)
      : cache_(cache), slots_(slots), sight_(sight), places_(places), queries_(queries),
        group_(queries.num_heads / cache.num_kv_heads) {}

  const Slots<T>& slots() const { return slots_; }
  int num_parts(const Piece& p) const { return (p.rows.end - p.rows.first) * group_; }

  // Ask for what a piece meets first.
  void prefetch(const Piece& piece) const { prefetch(piece, piece.from); }

  // Work out a piece that has all chunks.
  void whole(const Piece& piece) const {
    static thread_local std::vector<float> room;
    static thread_local std::vector<Part> running;
    start(piece, running, room, cache_.head_width);
    each_chunk<Wanted::kValues>(piece, [&](int, int r, const Part& part) {
      merge(running[r], part, cache_.head_width);
    });
    finish(piece, running);
  }

  // Keep what each chunk of a piece gives: `kept` [chunk of the piece][row and head], `room` their
  // sums.
  void partly(const Piece& piece, Part* kept, float* room) const {
    const int num = num_parts(piece), width = cache_.head_width;
    for (int i = 0; i < num * (piece.to - piece.from); ++i) kept[i] = {-INFINITY, 0, nullptr};
    each_chunk<Wanted::kValues>(piece, [&](int chunk, int r, const Part& part) {
      const int i = (chunk - piece.from) * num + r;
      kept[i] = {part.top, part.total, room + (size_t)i * width};
      std::memcpy(kept[i].out, part.out, sizeof(float) * width);
    });
  }

  // Merge what was kept of all chunks, in their order.
  void join(const Piece& piece, const Part* kept) const {
    static thread_local std::vector<float> room;
    static thread_local std::vector<Part> running;
    start(piece, running, room, cache_.head_width);
    const int num = num_parts(piece);
    for (int i = 0; i < num * piece.to; ++i)
      if (kept[i].out) merge(running[i % num], kept[i], cache_.head_width);
    finish(piece, running);
  }

  // Write how much of their attention a piece's heads, all together, would give to the slots of each
  // old block: `score` [row][stride].
  void score(Piece piece, float* score, size_t stride) const {
    static thread_local std::vector<float> room;
    static thread_local std::vector<Part> running;
    const Place* list = places_ + piece.rows.at;
    while (list[piece.to - 1].kind > Place::kFarSinks) --piece.to;
    const int num_blocks = (int)sight_.memory->num_old(last_position(piece.rows));
    start(piece, running, room, num_blocks);
    each_chunk<Wanted::kWeights>(piece, [&](int chunk, int r, const Part& part) {
      Part& into = running[r];
      const float top = std::max(into.top, part.top);
      const float keep = std::exp(into.top - top), by = std::exp(part.top - top);
      into.total = into.total * keep + part.total * by;
      into.top = top;
      if (keep != 1)
        for (int block = 0; block < num_blocks; ++block) into.out[block] *= keep;
      if (list[chunk].kind != Place::kSlots) return;
      const int64_t size = sight_.memory->num_slots(list[chunk].tier), first = list[chunk].first;
      const int64_t num = std::min<int64_t>(kChunk, num_blocks * size - first);
      for (int i = 0; i < num; ++i) into.out[(first + i) / size] += part.out[i] * by;
    });
    for (int r = 0; r < num_parts(piece); ++r) {
      float* to = score + (r / group_) * stride;
      if (r % group_ == 0) std::fill_n(to, num_blocks, 0.0f);
      for (int block = 0; block < num_blocks; ++block)
        to[block] += running[r].out[block] / running[r].total;
    }
  }

  // The same by the index: each head's softmax over old blocks of the best logit that a block has.
  void score_index(const Piece& piece, float* score, size_t stride) const {
    static thread_local std::vector<float> queries, best;
    const Memory& memory = *sight_.memory;
    const int num = num_parts(piece), width = cache_.head_width, tier = memory.num_tiers;
    const int64_t last = last_position(piece.rows), size = memory.num_slots(tier);
    const int64_t num_blocks = memory.num_old(last);
    if (num_blocks == 0) return;
    queries.resize((size_t)num * width);
    best.assign(num * num_blocks, -INFINITY);
    for (int r = 0; r < num; ++r) {
      float* q = &queries[(size_t)r * width];
      std::memcpy(q, head(piece, r), sizeof(float) * width);
      if (const int64_t old = memory.num_old(position(piece, r))) sight_.turns->back(q, old - 1);
    }
    for (int64_t first = 0; first < num_blocks * size; first += kChunk) {
      const Place place{Place::kSlots, tier, first};
      Chunk<T> chunk = slots_.chunk(*piece.rows.sequence, place, last, piece.kv_head);
      slots_.complete(chunk, *piece.rows.sequence, place, last, piece.kv_head);
      const int64_t from = std::max(first, memory.seen(tier, last).first);
      const int64_t until = std::min(first + kChunk, num_blocks * size);
      each_logits(chunk, queries.data(), num, [&](int r, const float* logits) {
        float* to = &best[r * num_blocks];
        for (int64_t i = from, block = from / size; i < until; ++block) {
          const int64_t end = std::min(until, (block + 1) * size);
          for (; i < end; ++i) to[block] = std::max(to[block], logits[i - first]);
        }
      });
    }
    for (int r = 0; r < num; ++r) {
      float* to = score + (r / group_) * stride;
      if (r % group_ == 0) std::fill_n(to, num_blocks, 0.0f);
      const int64_t mine = memory.num_old(position(piece, r));
      add_softmax(&best[r * num_blocks], mine, to);
    }
  }

 private:
  // Call `take(row and head, logits)` for what each query, [row and head][channel], makes of a chunk.
  template <class Take>
  void each_logits(const Chunk<T>& chunk, const float* queries, int num, const Take& take) const {
    constexpr int kFew = 4;
    alignas(64) float made[kFew][kChunk];
    const uint64_t all_seen[kFew] = {~0ull, ~0ull, ~0ull, ~0ull};
    const int width = cache_.head_width;
    for (int r = 0; r < num; r += kFew) {
      const float* q[kFew];
      Part parts[kFew];
      const int count = std::min(kFew, num - r);
      for (int n = 0; n < count; ++n) q[n] = queries + (size_t)(r + n) * width, parts[n].out = made[n];
      attend_few<Wanted::kLogits>(chunk, q, all_seen, count, parts);
      for (int n = 0; n < count; ++n) take(r + n, made[n]);
    }
  }

  static void add_softmax(const float* logits, int64_t num, float* to) {
    float top = -INFINITY, total = 0;
    for (int64_t i = 0; i < num; ++i) top = std::max(top, logits[i]);
    if (top == -INFINITY) return;
    for (int64_t i = 0; i < num; ++i) total += std::exp(logits[i] - top);
    for (int64_t i = 0; i < num; ++i) to[i] += std::exp(logits[i] - top) / total;
  }

  template <Wanted kWanted>
  void attend_few(const Chunk<T>& chunk, const float* const* q, const uint64_t* sees, int count,
                  Part* parts) const {
    const int width = cache_.head_width;
    if (count == 4) attend_chunk<kWanted, 4>(chunk, q, sees, width, parts);
    if (count == 3) attend_chunk<kWanted, 3>(chunk, q, sees, width, parts);
    if (count == 2) attend_chunk<kWanted, 2>(chunk, q, sees, width, parts);
    if (count == 1) attend_chunk<kWanted, 1>(chunk, q, sees, width, parts);
  }

  int64_t position(const Piece& p, int r) const {
    return sight_.positions[p.rows.first + r / group_];
  }

  // By how many blocks what a chunk has is further from a row than distances go.
  int64_t excess(const Piece& piece, const Place& place, int r) const {
    if (place.kind != Place::kPaged && place.kind != Place::kFarSinks) return 0;
    return sight_.memory->excess(place.first / sight_.memory->block_tokens, position(piece, r));
  }

  float* head(const Piece& p, int r) const {
    return queries_.rows + (size_t)(p.rows.first + r / group_) * queries_.stride +
           (size_t)(p.kv_head * group_ + r % group_) * cache_.head_width;
  }

  int64_t last_position(const RowGroup& rows) const { return sight_.positions[rows.end - 1]; }

  // Begin with nothing: sums of `width` numbers.
  void start(const Piece& piece, std::vector<Part>& running, std::vector<float>& room,
             int width) const {
    const int num = num_parts(piece);
    room.assign((size_t)num * width, 0.0f);
    running.resize(num);
    for (int r = 0; r < num; ++r) running[r] = {-INFINITY, 0, room.data() + (size_t)r * width};
  }

  void finish(const Piece& piece, const std::vector<Part>& running) const {
    for (int r = 0; r < num_parts(piece); ++r) {
      Vec inverse = all(1.0f / running[r].total);
      for (int c = 0; c < cache_.head_width; c += kLanes)
        store(head(piece, r) + c, load(running[r].out + c) * inverse);
    }
  }

  Chunk<T> chunk(const Piece& piece, const Place& place) const {
    const Sequence& s = *piece.rows.sequence;
    const int64_t last = last_position(piece.rows);
    if (place.kind == Place::kSlots) return slots_.chunk(s, place, last, piece.kv_head);
    if (place.kind != Place::kOwn)
      return {cache_, s.pages, (int)last + 1, piece.kv_head, (int)place.first};
    static constexpr int64_t kOnlyPage[] = {0};
    const int size = sight_.block_tokens;
    const Own& own = s.own[place.first / size - s.first_block];
    const auto page = Cache<T>::own(own.data, sight_.layer, size, cache_.num_kv_heads,
                                    cache_.head_width);
    return {page, kOnlyPage, size, piece.kv_head, (int)(place.first % size)};
  }

  void prefetch(const Piece& piece, int number) const {
    const Place& place = places_[piece.rows.at + number];
    if (place.first >= 0) heddle::prefetch(chunk(piece, place), cache_.head_width);
  }

  // Call `take(chunk, row and head, part)` for what each row makes of each chunk that it sees.
  template <Wanted kWanted, class Take>
  void each_chunk(const Piece& piece, const Take& take) const {
    constexpr int kFew = 4;
    alignas(64) float made[kFew][kMaxHeadWidth], nearer[kFew][kMaxHeadWidth];
    const RowGroup& rows = piece.rows;
    const int width = cache_.head_width;
    for (int number = piece.from; number < piece.to; ++number) {
      const Place& place = places_[rows.at + number];
      uint64_t seen[RowGroup::kMost], seen_by_some = 0;
      for (int i = 0; i < rows.end - rows.first; ++i)
        seen_by_some |= seen[i] = sight_.sees(place, *rows.sequence, rows.first + i);
      if (number + 1 < piece.to) prefetch(piece, number + 1);
      if (!seen_by_some) continue;
      Chunk<T> chunk = this->chunk(piece, place);
      if (place.kind == Place::kSlots)
        slots_.complete(chunk, *rows.sequence, place, last_position(rows), piece.kv_head);
      for (int r = 0; r < num_parts(piece); r += kFew) {
        const float* q[kFew];
        uint64_t sees[kFew];
        int row[kFew], count = 0;
        Part parts[kFew];
        for (int n = r; n < std::min(r + kFew, num_parts(piece)); ++n) {
          if (!seen[n / group_]) continue;
          sees[count] = seen[n / group_];
          row[count] = n;
          q[count] = head(piece, n);
          if (const int64_t excess = this->excess(piece, place, n)) {
            std::memcpy(nearer[count], q[count], sizeof(float) * width);
            sight_.turns->back(nearer[count], excess);
            q[count] = nearer[count];
          }
          parts[count].out = made[count];
          ++count;
        }
        attend_few<kWanted>(chunk, q, sees, count, parts);
        for (int n = 0; n < count; ++n) take(number, row[n], parts[n]);
      }
    }
  }

  Cache<T> cache_;
  Slots<T> slots_;
  Sight sight_;
  const Place* places_;
  Queries queries_;
  int group_;
};

}  // namespace heddle

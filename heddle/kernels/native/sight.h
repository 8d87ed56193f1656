// What each row of a step sees: `heddle/model/slots.py` and `memory.py` say it in masks.
//
// Rows meet chunks of 64 keys or slots, counted from their sequence's first or a block's, in a fixed
// order. So a row's bits do not depend on the rows beside it.
#pragma once

#include <vector>

#include "chunk.h"
#include "rotation.h"

namespace heddle {

// One slot for every `ratio` tokens of the `blocks` youngest blocks that no finer tier has. Cosines
// and sines, [token of a slot][channel], turn keys to the middle of their slot.
struct Tier {
  int32_t ratio, reserved;
  int64_t blocks;
  const float *cos, *sin;
};

// How a network sees what is old; see `MemoryConfig`. A page of the cache is a block.
struct Memory {
  int32_t block_tokens, sink_tokens, window_blocks, paged_blocks, num_tiers;
  int32_t index_ratio;      // tokens of a key of the index that pages are chosen by, or 0
  const Tier* tiers;
  int64_t distance_blocks;  // blocks that are older are read as if they were so old
  const float *index_cos, *index_sin;  // as a tier's
  const float* frequencies;            // of rotary positions, [half of a head's channels]

  bool is_sound() const {
    if (block_tokens < kRun || block_tokens % kRun || window_blocks < 1) return false;
    if (sink_tokens < 0 || sink_tokens > block_tokens || paged_blocks < 0) return false;
    if (index_ratio < 0 || (index_ratio && (block_tokens % index_ratio || !frequencies))) return false;
    if (distance_blocks < 0 || (distance_blocks < INT64_MAX && !index_ratio)) return false;
    return num_tiers + index_ratio > 0 && std::all_of(tiers, tiers + num_tiers, [&](const Tier& tier) {
      return tier.ratio > 0 && block_tokens % tier.ratio == 0 && tier.blocks >= 0;
    });
  }

  // The index counts as a tier behind all others.
  int ratio(int tier) const { return tier < num_tiers ? tiers[tier].ratio : index_ratio; }
  int num_slots(int tier) const { return block_tokens / ratio(tier); }  // of a block

  // How many blocks are old from a position: seen through slots.
  int64_t num_old(int64_t position) const {
    return std::max<int64_t>(0, position / block_tokens + 1 - window_blocks);
  }

  // How many tokens a slot stands for: sinks are left out.
  int num_members(int tier, int64_t slot) const {
    const int ratio = this->ratio(tier);
    return (int)std::clamp<int64_t>((slot + 1) * ratio - sink_tokens, 0, ratio);
  }

  struct Range {
    int64_t first, end;
  };

  // The slots of a tier that are seen from a position, of which each stands for some token.
  Range seen(int tier, int64_t position) const {
    int64_t end = num_old(position), first = 0;
    if (tier < num_tiers) {
      for (int i = 0; i < tier; ++i) end = std::max<int64_t>(0, end - tiers[i].blocks);
      first = std::max<int64_t>(0, end - tiers[tier].blocks);
    }
    return {std::max<int64_t>(first * num_slots(tier), sink_tokens / ratio(tier)),
            end * num_slots(tier)};
  }

  // By how many blocks a block is further from a position than distances go.
  int64_t excess(int64_t block, int64_t position) const {
    return std::max<int64_t>(0, position / block_tokens - block - distance_blocks);
  }
};

// Cosines and sines that turn rotated keys or queries as if they were whole blocks nearer to the
// first token.
class Turns {
 public:
  void reach(int64_t num_blocks, const Memory& memory, int width) {
    width_ = width;
    for (int64_t block = numbers_.size() / (2 * width); block < num_blocks; ++block) {
      numbers_.resize((block + 1) * 2 * width);
      float *const cos = &numbers_[block * 2 * width], *const sin = cos + width;
      for (int i = 0; i < width / 2; ++i) {
        const float angle = (float)(block * memory.block_tokens) * memory.frequencies[i];
        cos[i] = cos[width / 2 + i] = std::cos(angle);
        sin[i] = std::sin(angle);
        sin[width / 2 + i] = -sin[i];
      }
    }
  }

  void back(float* head, int64_t blocks) const {
    const float* cos = &numbers_[blocks * 2 * width_];
    rotate(head, cos, cos + width_, width_);
  }

 private:
  int width_ = 0;
  std::vector<float> numbers_;  // [block][cosines, then sines][channel]
};

// What tokens of one block left behind in one of the later loops: a page of each layer, laid out as
// `Cache::own` says. `present` has a bit for each token that went so deep; the others' places are
// zero.
struct Own {
  uint8_t* data;
  uint64_t* present;
};

// Rows `start` to `end` - 1 of a step belong to one sequence, in the order of their positions.
struct Sequence {
  int32_t start, end;
  const int64_t* pages;  // the cache's, from the sequence's first token on
  const Own* own;        // in a later loop: that loop's, of blocks from `first_block` on
  int64_t first_block;
};

// A chunk: tokens, or slots of a tier, from number `first` on; sinks that are further away than
// distances go; tokens of a block that rows have chosen, none yet if `first` is -1; a block's tokens
// in a later loop.
struct Place {
  enum Kind : int32_t { kTokens, kSlots, kFarSinks, kPaged, kOwn } kind;
  int32_t tier;
  int64_t first;
};

// Bits `low` to `end` - 1, as far as a word has them.
inline uint64_t bits(int64_t low, int64_t end) {
  const auto below = [](int64_t n) {
    return n <= 0 ? 0 : n >= kChunk ? ~0ull : (1ull << n) - 1;
  };
  return below(end) & ~below(low);
}

struct Sight {
  const int64_t* positions;  // [row]
  int block_tokens;          // of a later loop's blocks, 0 in the first loop
  int layer;                 // of those that have pages of the loop's own
  const Memory* memory;      // null if all of the past is read exactly
  const int64_t* chosen;     // [row][paged_blocks]: old blocks that are read exactly, or -1
  const Turns* turns;        // of all old blocks, if there is an index

  static int words(int tokens) { return (tokens + kChunk - 1) / kChunk; }

  // List what rows `first` to `end` - 1 of a sequence meet.
  void list(int first, int end, std::vector<Place>& to) const {
    const int64_t low = positions[first], high = positions[end - 1];
    const auto add = [&](Place::Kind kind, int tier, int64_t from, int64_t until) {
      for (; from < until; from += kChunk) to.push_back({kind, tier, from});
    };
    int64_t near = 0;
    if (memory) {
      near = memory->num_old(low) * memory->block_tokens / kChunk * kChunk;
      add(Place::kTokens, 0, 0, std::min<int64_t>(memory->sink_tokens, near));
    }
    add(Place::kTokens, 0, near, high + 1);
    if (memory) {
      if (memory->excess(0, high)) add(Place::kFarSinks, 0, 0, memory->sink_tokens);
      for (int tier = 0; tier < memory->num_tiers; ++tier)
        add(Place::kSlots, tier, memory->seen(tier, low).first / kChunk * kChunk,
            memory->seen(tier, high).end);
      const int64_t most =
          std::min<int64_t>((end - first) * memory->paged_blocks, memory->num_old(high));
      to.insert(to.end(), most * words(memory->block_tokens), {Place::kPaged, 0, -1});
    }
    if (const int size = block_tokens)
      for (int64_t block = low / size; block <= high / size; ++block)
        add(Place::kOwn, 0, block * size, (block + 1) * size);
  }

  // Return which keys of a chunk a row sees.
  uint64_t sees(const Place& place, const Sequence& sequence, int row) const {
    const int64_t first = place.first, position = positions[row];
    switch (place.kind) {
      case Place::kTokens: return sees_tokens(first, position);
      case Place::kSlots: return sees_slots(place, row);
      case Place::kFarSinks:
        return memory->excess(0, position) ? bits(0, memory->sink_tokens - first) : 0;
      case Place::kPaged: return first < 0 ? 0 : sees_paged(first, row);
      default: {
        const int64_t block = first / block_tokens, word = first % block_tokens / kChunk;
        if (position / block_tokens != block) return 0;
        return sequence.own[block - sequence.first_block].present[word] &
               bits(0, position + 1 - first);
      }
    }
  }

 private:
  uint64_t sees_tokens(int64_t first, int64_t position) const {
    if (!memory) return bits(0, position + 1 - first);
    const int64_t near = memory->num_old(position) * memory->block_tokens;
    const uint64_t sinks =
        memory->excess(0, position) ? 0 : bits(0, memory->sink_tokens - first);
    return (bits(near - first, kChunk) | sinks) & bits(0, position + 1 - first);
  }

  uint64_t sees_slots(const Place& place, int row) const {
    const Memory::Range range = memory->seen(place.tier, positions[row]);
    uint64_t sees = bits(range.first - place.first, range.end - place.first);
    const int64_t size = memory->num_slots(place.tier);
    for (int i = 0; sees && i < memory->paged_blocks; ++i) {
      const int64_t slot = chosen[(size_t)row * memory->paged_blocks + i] * size;
      if (slot >= 0) sees &= ~bits(slot - place.first, slot + size - place.first);
    }
    return sees;
  }

  // Sinks are read already.
  uint64_t sees_paged(int64_t first, int row) const {
    const int64_t size = memory->block_tokens, block = first / size;
    const int64_t* mine = chosen + (size_t)row * memory->paged_blocks;
    if (std::find(mine, mine + memory->paged_blocks, block) == mine + memory->paged_blocks) return 0;
    return bits(memory->sink_tokens - first, (block + 1) * size - first);
  }
};

}  // namespace heddle

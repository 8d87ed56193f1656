// Threads that share out the pieces of a task, spin briefly for the next one, then sleep.
//
// Pieces are claimed one by one, and the caller claims too: it waits for pieces that others have
// begun, never for a thread to show up. When the host takes a core away, who is left does the rest.
#pragma once

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <cassert>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace heddle {

inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// How often the process has been forked: a child has its parent's pools, but not their threads.
inline std::atomic<int>& num_forks() {
  static std::atomic<int> count{0};
  static const int registered =
      pthread_atfork(nullptr, nullptr, [] { num_forks().fetch_add(1); });
  (void)registered;
  return count;
}

constexpr int kSpins = 2000;

// Wait for what another thread has begun, after a while letting others run.
template <class Done>
void wait_until(const Done& is_done) {
  for (int spins = 0; !is_done();) {
    if (++spins < kSpins) relax();
    else std::this_thread::yield();
  }
}

class Pool {
 public:
  explicit Pool(int num_threads)
      : num_threads_(std::clamp(num_threads, 1, kMaxThreads)), born_(num_forks().load()) {
    for (int i = 1; i < num_threads_; ++i) threads_.emplace_back([this] { work(); });
  }

  ~Pool() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      ends_.store(true);
    }
    wake_.notify_all();
    for (auto& thread : threads_) thread.join();
  }

  int num_threads() const { return num_threads_; }

  // Whether this is a copy in a forked process, which must neither wait for threads nor be deleted.
  bool is_forked() const { return num_forks().load(std::memory_order_relaxed) != born_; }

  // Call `piece(0)` to `piece(count - 1)`, each once, in any order; return when all are done.
  template <class Piece>
  void run(int count, const Piece& piece) {
    if (count <= 0) return;
    if (count == 1 || num_threads_ == 1 || is_forked()) {
      for (int i = 0; i < count; ++i) piece(i);
      return;
    }
    assert(count < 1 << kBits);
    call_ = [](const void* self, int i) { (*static_cast<const Piece*>(self))(i); };
    self_ = &piece;
    done_.store(0, std::memory_order_relaxed);
    const uint64_t task = task_of(state_.load(std::memory_order_relaxed)) + 1;
    state_.store(task << 2 * kBits | (uint64_t)count << kBits);
    if (num_asleep_.load() > 0) {
      std::lock_guard<std::mutex> lock(mutex_);
      wake_.notify_all();
    }
    help(task);
    wait_until([&] { return done_.load(std::memory_order_acquire) >= count; });
  }

 private:
  static constexpr int kMaxThreads = 256;

  // `state_` holds the task's number, how many pieces it has, and how many of them are claimed. All
  // three change together: a thread that comes late cannot take a piece of the next task for one of
  // the last.
  static constexpr int kBits = 20;
  static uint64_t task_of(uint64_t state) { return state >> 2 * kBits; }

  // Do what is left of a task.
  void help(uint64_t task) {
    uint64_t state = state_.load(std::memory_order_acquire);
    while (task_of(state) == task % (1 << (64 - 2 * kBits))) {
      const int count = (int)(state >> kBits & ((1 << kBits) - 1));
      const int mine = (int)(state & ((1 << kBits) - 1));
      if (mine >= count) return;
      auto call = call_.load(std::memory_order_relaxed);
      auto self = self_.load(std::memory_order_relaxed);
      // If this succeeds the task has not ended, so what was read above is its own.
      if (state_.compare_exchange_weak(state, state + 1, std::memory_order_acq_rel)) {
        call(self, mine);
        done_.fetch_add(1, std::memory_order_release);
        state = state_.load(std::memory_order_acquire);
      }
    }
  }

  void work() {
    uint64_t seen = 0;
    while (!ends_.load(std::memory_order_relaxed)) {
      uint64_t task = task_of(state_.load(std::memory_order_acquire));
      for (int spins = 0; task == seen && spins < kSpins; ++spins) {
        relax();
        task = task_of(state_.load(std::memory_order_acquire));
      }
      if (task == seen) {
        std::unique_lock<std::mutex> lock(mutex_);
        num_asleep_.fetch_add(1);
        wake_.wait(lock, [&] {
          task = task_of(state_.load());
          return ends_.load() || task != seen;
        });
        num_asleep_.fetch_sub(1);
        continue;
      }
      seen = task;
      help(task);
    }
  }

  const int num_threads_, born_;
  std::vector<std::thread> threads_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::atomic<bool> ends_{false};
  std::atomic<int> num_asleep_{0};
  std::atomic<uint64_t> state_{0};
  std::atomic<int> done_{0};
  // Of the current task; written only while there is nothing to claim.
  std::atomic<void (*)(const void*, int)> call_{nullptr};
  std::atomic<const void*> self_{nullptr};
};

}  // namespace heddle

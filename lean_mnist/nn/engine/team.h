/* Threads that run one function together, meeting at barriers; and vectors of floats. Included by kernels.c, screen.c. */
#ifndef LEAN_MNIST_TEAM_H
#define LEAN_MNIST_TEAM_H

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>

/* A vector register of floats: WIDTH of them; and the columns of a tile of a product, in such vectors. */
#if defined(__AVX512F__)
enum { WIDTH = 16, TILE_VECTORS = 4 };
#elif defined(__AVX__)
enum { WIDTH = 8, TILE_VECTORS = 2 };
#else
enum { WIDTH = 4, TILE_VECTORS = 2 };
#endif
typedef float vector __attribute__((vector_size(4 * WIDTH), aligned(4), may_alias));
typedef uint32_t words __attribute__((vector_size(4 * WIDTH), aligned(4), may_alias));

typedef struct {
    int size;              /* threads that take part in the present work, the caller among them */
    _Atomic int arrived;   /* of them at the present barrier */
    _Atomic int passed;    /* barriers so far */
} Team;

static inline void relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* All threads of the team have come here before any goes on. Where one is long in coming, the others give way. */
static inline void meet(Team *team) {
    if (team->size == 1) return;
    int passed = atomic_load_explicit(&team->passed, memory_order_acquire);
    if (atomic_fetch_add_explicit(&team->arrived, 1, memory_order_acq_rel) + 1 == team->size) {
        atomic_store_explicit(&team->arrived, 0, memory_order_relaxed);
        atomic_store_explicit(&team->passed, passed + 1, memory_order_release);
        return;
    }
    for (int tries = 0; atomic_load_explicit(&team->passed, memory_order_acquire) == passed; tries++) {
        if (tries < 2000) relax(); /* some 50 microseconds */
        else sched_yield();
    }
}

/* Part number `thread` of 0 … count − 1, in multiples of `unit`: from *begin up to *end. */
static inline void part_of(int64_t count, int64_t unit, int thread, int threads, int64_t *begin, int64_t *end) {
    int64_t units = (count + unit - 1) / unit;
    *begin = units * thread / threads * unit;
    *end = units * (thread + 1) / threads * unit;
    if (*end > count) *end = count;
}

#endif

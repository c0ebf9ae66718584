/* Rounds of an exchange through memory that processes share: each counts its own, and waits until the others have. */
#define _GNU_SOURCE
#include <linux/futex.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "team.h"

enum { TRIES = 2000 }; /* some 50 microseconds */

/* Count a round: who sees that sees all that was written before. */
void count_round(int32_t *count, int32_t round) {
    __atomic_store_n(count, round, __ATOMIC_RELEASE);
    syscall(SYS_futex, count, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
}

/* Whether another process has counted this round, within so many milliseconds. */
int await_round(const int32_t *count, int32_t round, int32_t milliseconds) {
    struct timespec begun, now, left = {0, 0};
    clock_gettime(CLOCK_MONOTONIC, &begun);
    for (int tries = 0;; tries++) {
        int32_t seen = __atomic_load_n(count, __ATOMIC_ACQUIRE);
        if (seen >= round) return 1;
        if (tries < TRIES) {
            relax();
            continue;
        }
        clock_gettime(CLOCK_MONOTONIC, &now);
        int64_t rest = milliseconds * 1000000LL - (now.tv_sec - begun.tv_sec) * 1000000000LL - (now.tv_nsec - begun.tv_nsec);
        if (rest <= 0) return 0;
        left.tv_sec = rest / 1000000000;
        left.tv_nsec = rest % 1000000000;
        syscall(SYS_futex, count, FUTEX_WAIT, seen, &left, NULL, 0);
    }
}

/* semaphore_word.h: a count of permits that threads wait for, as one word: value << 1 | a thread may be parked.
 *
 * A release clears the flag and wakes as many threads as it brings permits. A woken thread sets the flag again when it
 * takes a permit, and wakes the next if permits are left. No waiter on the other side of a fork is woken or waited for:
 * parking.h keeps none.
 */
#ifndef FORKSAFE_SEMAPHORE_WORD_H
#define FORKSAFE_SEMAPHORE_WORD_H

#include "lock_word.h"

#define SW_WAITERS 1u
#define SW_MAX_VALUE ((uint64_t)1 << 62)

static inline uint64_t sw_value(fs_word *word) { return atomic_load_explicit(word, memory_order_relaxed) >> 1; }

static inline int sw_take_free(fs_word *word) {
    uint64_t w = atomic_load_explicit(word, memory_order_relaxed);
    while (w >> 1)
        if (atomic_compare_exchange_weak_explicit(word, &w, w - 2, memory_order_acquire, memory_order_relaxed))
            return 1;
    return 0;
}

/* LW_WOULD_BLOCK, LW_TAKEN or LW_INTERRUPTED. Call without the GIL. */
int sw_wait(fs_word *word, int64_t deadline);
/* 0: the value would pass `limit`, and was left alone. */
int sw_give(fs_word *word, uint64_t permits, uint64_t limit);
void sw_raise_to(fs_word *word, uint64_t value);

#endif

/* semaphore_word.c: see semaphore_word.h. */
#include "semaphore_word.h"

int sw_wait(fs_word *word, int64_t deadline) {
    uint64_t waited = 0;
    for (;;) {
        uint64_t w = atomic_load_explicit(word, memory_order_relaxed);
        if (w >> 1) {
            if (!atomic_compare_exchange_weak_explicit(word, &w, (w - 2) | waited, memory_order_acquire,
                                                       memory_order_relaxed))
                continue;
            if (waited && (w - 2) >> 1) unpark(word, 1, fs);
            return LW_TAKEN;
        }
        if (!(w & SW_WAITERS) && !atomic_compare_exchange_weak(word, &w, w | SW_WAITERS)) continue;
        switch (park(word, SW_WAITERS, deadline, fs)) {
        case PARK_INTERRUPTED: return LW_INTERRUPTED;
        case PARK_TIMED_OUT: return sw_take_free(word) ? LW_TAKEN : LW_WOULD_BLOCK;
        default: waited = SW_WAITERS;
        }
    }
}

int sw_give(fs_word *word, uint64_t permits, uint64_t limit) {
    uint64_t w = atomic_load_explicit(word, memory_order_relaxed);
    do {
        if (permits > limit || (w >> 1) > limit - permits) return 0;
    } while (!atomic_compare_exchange_weak_explicit(word, &w, ((w >> 1) + permits) << 1, memory_order_release,
                                                    memory_order_relaxed));
    if (w & SW_WAITERS) unpark(word, permits < INT32_MAX ? (int)permits : INT32_MAX, fs);
    return 1;
}

void sw_raise_to(fs_word *word, uint64_t value) {
    uint64_t w = atomic_load_explicit(word, memory_order_relaxed);
    while (w >> 1 < value && !atomic_compare_exchange_weak(word, &w, value << 1)) continue;
}

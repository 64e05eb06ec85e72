/* lock_word.c: the slow paths of lock_word.h. */
#include "lock_word.h"

/* While it is not known which thread survived a late-noticed fork, look again this often. */
#define UNKNOWN_SLICE 20000000

const fs_api *fs;
_Thread_local uint64_t lw_self;

uint64_t lw_get_self(void) {
    if (!lw_self) lw_self = fs->token();
    return lw_self;
}

/* `waited`: other threads may be parked too, since a release wakes one and clears the flag. */
static int try_word(fs_word *owner, uint64_t self, uint64_t waited, int *gone) {
    uint64_t w = atomic_load_explicit(owner, memory_order_relaxed);
    for (;;) {
        *gone = w ? fs->gone(w >> LW_SHIFT) : 1;
        if (*gone != 1) return LW_WOULD_BLOCK;
        if (atomic_compare_exchange_weak(owner, &w, self << LW_SHIFT | (w & LW_WAITERS) | waited))
            return w ? LW_ORPHAN : LW_TAKEN;
    }
}

int lw_try(fs_word *owner, uint64_t self) {
    int gone;
    return try_word(owner, self, 0, &gone);
}

int lw_wait(fs_word *owner, uint64_t self, int64_t deadline) {
    uint64_t waited = 0;
    for (;;) {
        int gone, got = try_word(owner, self, waited, &gone);
        uint64_t w = atomic_load_explicit(owner, memory_order_relaxed);
        int64_t until = deadline;
        if (got != LW_WOULD_BLOCK) return got;
        if (!w) continue;
        if (!(w & LW_WAITERS) && !atomic_compare_exchange_weak(owner, &w, w | LW_WAITERS)) continue;
        if (gone == -1) {
            int64_t soon = monotonic_ns() + UNKNOWN_SLICE;
            if (soon < until) until = soon;
        }
        switch (park(owner, w | LW_WAITERS, until, fs)) {
        case PARK_INTERRUPTED: return LW_INTERRUPTED;
        case PARK_TIMED_OUT:
            if (until == deadline) return try_word(owner, self, LW_WAITERS, &gone);
            break;
        default: break;
        }
        waited = LW_WAITERS;
    }
}

int lw_is_held(fs_word *owner) {
    uint64_t w = atomic_load_explicit(owner, memory_order_relaxed);
    return w && fs->gone(w >> LW_SHIFT) != 1;
}

int lw_is_orphaned(fs_word *owner) {
    uint64_t w = atomic_load_explicit(owner, memory_order_relaxed);
    return w && fs->gone(w >> LW_SHIFT) == 1;
}

static uint64_t set_free(fs_word *owner) { return atomic_exchange_explicit(owner, 0, memory_order_release); }

int lw_release(fs_word *owner) {
    uint64_t w = set_free(owner);
    if (w & LW_WAITERS) unpark(owner, 1, fs);
    return w != 0;
}

void lw_reset(fs_word *owner) {
    if (set_free(owner) & LW_WAITERS) unpark(owner, INT32_MAX, fs);
}

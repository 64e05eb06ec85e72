/* lock_word.h: a lock as one 64-bit word that names its holder.
 *
 * 0 is free; else token << 3 | flags. Uncontended acquire and release are one compare-and-swap each. Only an
 * acquire that finds the word taken asks whether the holder vanished in a fork; taking over is one
 * compare-and-swap on that dead word, so exactly one thread wins. A fork touches no lock.
 *
 * A lock with extras (a repair, holding across forks) keeps in its word for good a pointer to them, flagged,
 * and its real word there: it always takes the slow path, and the others pay nothing for it.
 */
#ifndef FORKSAFE_LOCK_WORD_H
#define FORKSAFE_LOCK_WORD_H

#include "fork_state.h"
#include "parking.h"

#define LW_WAITERS 1u /* a thread may be parked on the word */
#define LW_EXTRAS 2u  /* the rest of the word points to lw_extras */
#define LW_FLAGS 7u
#define LW_SHIFT 3

typedef struct {
    fs_word owner;
    _Atomic int torn;    /* orphaned, and its data not repaired since */
    double hold_timeout; /* seconds to wait for it before a fork; negative: it is not held across forks */
    void *on_orphan;     /* a Python callable, or NULL */
} lw_extras;

/* What an acquire came to. */
enum { LW_WOULD_BLOCK, LW_TAKEN, LW_ORPHAN, LW_INTERRUPTED };

extern const fs_api *fs;                 /* set at import, by the module that links this */
extern _Thread_local uint64_t lw_self;   /* this thread's token, once it is known here; it never changes */

static inline void lw_set_api(const fs_api *api) { fs = api; }

static inline lw_extras *lw_get_extras(fs_word *word) {
    uint64_t w = atomic_load_explicit(word, memory_order_relaxed);
    return w & LW_EXTRAS ? (lw_extras *)(uintptr_t)(w & ~(uint64_t)LW_FLAGS) : 0;
}

static inline fs_word *lw_owner(fs_word *word) {
    lw_extras *extras = lw_get_extras(word);
    return extras ? &extras->owner : word;
}

/* `fast` is 0 before a child's first acquire, so that it takes the slow path, which runs the hooks that are due; and
 * while locks are tracked. */
static inline int lw_take_free(fs_word *word, uint64_t self) {
    uint64_t w = 0;
    return self && atomic_load_explicit(&fs->page->fast, memory_order_relaxed) &&
           atomic_compare_exchange_strong_explicit(word, &w, self << LW_SHIFT, memory_order_acquire,
                                                   memory_order_relaxed);
}

static inline int lw_give_back(fs_word *word) {
    uint64_t w = atomic_load_explicit(word, memory_order_relaxed);
    return w && !(w & LW_FLAGS) &&
           atomic_compare_exchange_strong_explicit(word, &w, 0, memory_order_release, memory_order_relaxed);
}

static inline int lw_held_by(fs_word *owner, uint64_t self) {
    uint64_t w = atomic_load_explicit(owner, memory_order_relaxed);
    return self && w >> LW_SHIFT == self && !(w & LW_EXTRAS);
}

/* Uncontended and without extras, the whole word is the holder's token. */
static inline int lw_is_uncontended_owner(fs_word *word, uint64_t self) {
    return self && atomic_load_explicit(word, memory_order_relaxed) == self << LW_SHIFT;
}

static inline int lw_give_uncontended(fs_word *word, uint64_t self) {
    uint64_t w = self << LW_SHIFT;
    return atomic_compare_exchange_strong_explicit(word, &w, 0, memory_order_release, memory_order_relaxed);
}

/* 0: no memory for a token. */
uint64_t lw_get_self(void);

/* The slow paths take the owner word, as lw_owner() finds it. */
int lw_try(fs_word *owner, uint64_t self);                     /* LW_WOULD_BLOCK, LW_TAKEN or LW_ORPHAN */
int lw_wait(fs_word *owner, uint64_t self, int64_t deadline);  /* or LW_INTERRUPTED; call without the GIL */
int lw_is_held(fs_word *owner);                                /* by a thread that still exists */
int lw_is_orphaned(fs_word *owner);
int lw_release(fs_word *owner);                                /* 0: it was free */
void lw_reset(fs_word *owner);

#endif

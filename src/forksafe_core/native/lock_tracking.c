/* lock_tracking.c: see lock_tracking.h. */
#define _GNU_SOURCE
#include "lock_tracking.h"

#include <time.h>

#define PLACES 4096

#ifdef CLOCK_MONOTONIC_COARSE
#define CLOCK CLOCK_MONOTONIC_COARSE
#else
#define CLOCK CLOCK_MONOTONIC
#endif

static struct {
    fs_word lock; /* its address; 0 while the rest is being changed */
    fs_word since;
} places[PLACES];

static unsigned place_of(fs_word *owner) {
    return (unsigned)(((uint64_t)(uintptr_t)owner >> 4) * UINT64_C(0x9e3779b97f4a7c15) >> 52) % PLACES;
}

void lt_note_taken(fs_word *owner) {
    unsigned n = place_of(owner);
    struct timespec now;
    clock_gettime(CLOCK, &now);
    atomic_store_explicit(&places[n].lock, 0, memory_order_relaxed);
    atomic_store_explicit(&places[n].since, (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec,
                          memory_order_release);
    atomic_store_explicit(&places[n].lock, (uint64_t)(uintptr_t)owner, memory_order_release);
}

uint64_t lt_taken_at(fs_word *owner) {
    unsigned n = place_of(owner);
    uint64_t since;
    if (atomic_load_explicit(&places[n].lock, memory_order_acquire) != (uint64_t)(uintptr_t)owner) return 0;
    since = atomic_load_explicit(&places[n].since, memory_order_acquire);
    return atomic_load(&places[n].lock) == (uint64_t)(uintptr_t)owner ? since : 0;
}

void lt_forget(void) {
    for (unsigned n = 0; n < PLACES; n++) atomic_store_explicit(&places[n].lock, 0, memory_order_relaxed);
}

/* permits.c: see permits.h. */
#include "permits.h"

#include <stdlib.h>

#define COUNT_BITS 16
#define COUNT_MASK ((uint64_t)0xFFFF)

permits *permits_new(void) { return calloc(1, sizeof(permits)); }

void permits_free(permits *p) {
    while (p) {
        permits *more = atomic_load(&p->more);
        free(p);
        p = more;
    }
}

/* The slot of `token` (0: a free one; any: whatever token, if permits are held), or NULL. */
static fs_word *find(permits *p, uint64_t token, int any) {
    for (; p; p = atomic_load_explicit(&p->more, memory_order_acquire))
        for (int i = 0; i < PERMITS_SLOTS; i++) {
            uint64_t w = atomic_load_explicit(&p->slots[i], memory_order_relaxed);
            if (any ? w != 0 : w >> COUNT_BITS == token) return &p->slots[i];
        }
    return NULL;
}

static int claim(permits *p, uint64_t token) {
    for (;;) {
        uint64_t empty = 0;
        fs_word *slot = find(p, 0, 0);
        if (slot) {
            if (atomic_compare_exchange_strong(slot, &empty, token << COUNT_BITS | 1)) return 1;
        } else {
            permits *last = p, *none = NULL, *more = permits_new();
            if (!more) return 0;
            while (atomic_load(&last->more)) last = atomic_load(&last->more);
            if (!atomic_compare_exchange_strong(&last->more, &none, more)) free(more);
        }
    }
}

int permits_add(permits *p, uint64_t token) {
    fs_word *slot = find(p, token, 0);
    uint64_t w = slot ? atomic_load_explicit(slot, memory_order_relaxed) : 0;
    /* If another thread returns our last permit now, the slot is no longer ours. */
    while (slot && w >> COUNT_BITS == token) {
        if ((w & COUNT_MASK) == COUNT_MASK || atomic_compare_exchange_weak(slot, &w, w + 1)) return 1;
    }
    return claim(p, token);
}

static int remove_one(permits *p, uint64_t token, int any) {
    for (;;) {
        fs_word *slot = find(p, token, any);
        uint64_t w = slot ? atomic_load_explicit(slot, memory_order_relaxed) : 0;
        if (!slot) return 0;
        if (!w || (!any && w >> COUNT_BITS != token)) continue;
        if (atomic_compare_exchange_weak(slot, &w, (w & COUNT_MASK) > 1 ? w - 1 : 0)) return 1;
    }
}

void permits_remove(permits *p, uint64_t token, uint64_t how_many) {
    while (how_many-- && (remove_one(p, token, 0) || remove_one(p, 0, 1))) continue;
}

uint64_t permits_held(permits *p, uint64_t token) {
    fs_word *slot = token ? find(p, token, 0) : NULL;
    return slot ? atomic_load(slot) & COUNT_MASK : 0;
}

void permits_keep_only(permits *p, uint64_t token) {
    for (; p; p = atomic_load(&p->more))
        for (int i = 0; i < PERMITS_SLOTS; i++)
            if (!token || atomic_load(&p->slots[i]) >> COUNT_BITS != token) atomic_store(&p->slots[i], 0);
}

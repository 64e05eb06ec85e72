/* parking.c: the kernel's futex where there is one, else a table of mutexes and conditions by address. */
#define _GNU_SOURCE
#include "parking.h"

#include <errno.h>
#include <time.h>

#define NS 1000000000LL

int64_t monotonic_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * NS + t.tv_nsec;
}

int64_t deadline_after(double seconds) {
    int64_t now = monotonic_ns();
    double ns = seconds * (double)NS;
    return ns >= (double)(NO_DEADLINE - now) ? NO_DEADLINE - 1 : now + (int64_t)ns;
}

#if defined(__linux__) && !defined(FORKSAFE_PORTABLE_PARKING)

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(SYS_futex)
#define FUTEX SYS_futex
typedef struct timespec futex_time;
#else /* 32-bit systems born with 64-bit time */
#define FUTEX SYS_futex_time64
typedef struct { long long tv_sec, tv_nsec; } futex_time;
#endif

static uint32_t *low_half(fs_word *word) {
    uint32_t *halves = (uint32_t *)word;
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    return halves + 1;
#else
    return halves;
#endif
}

int park(fs_word *word, uint64_t expected, int64_t deadline, const fs_api *fs) {
    futex_time until = {deadline / NS, deadline % NS};
    (void)fs;
    if (syscall(FUTEX, low_half(word), FUTEX_WAIT_BITSET_PRIVATE, (uint32_t)expected,
                deadline == NO_DEADLINE ? NULL : &until, NULL, FUTEX_BITSET_MATCH_ANY) == 0)
        return PARK_WOKEN;
    return errno == ETIMEDOUT ? PARK_TIMED_OUT : errno == EINTR ? PARK_INTERRUPTED : PARK_WOKEN;
}

void unpark(fs_word *word, int how_many, const fs_api *fs) {
    (void)fs;
    syscall(FUTEX, low_half(word), FUTEX_WAKE_PRIVATE, how_many, NULL, NULL, 0);
}

#else

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>

/* A condition's wait does not return for a signal, so sleepers look up this often. */
#define SLICE (NS / 20)
#define PLACES 64

typedef struct {
    pthread_mutex_t mutex;
    pthread_cond_t woken;
} place;

typedef struct {
    uint64_t stamp;
    place places[PLACES];
} lot;

static _Atomic(lot *) current;

static lot *new_lot(uint64_t stamp) {
    lot *l = malloc(sizeof *l);
    if (!l) return NULL;
    l->stamp = stamp;
    for (int i = 0; i < PLACES; i++) {
        pthread_mutex_init(&l->places[i].mutex, NULL);
        pthread_cond_init(&l->places[i].woken, NULL);
    }
    return l;
}

static place *place_of(fs_word *word, const fs_api *fs) {
    uint64_t stamp = atomic_load(&fs->page->stamp);
    lot *l = atomic_load(&current);
    if (!l || l->stamp != stamp) {
        lot *mine = new_lot(stamp);
        if (!mine) return NULL;
        if (atomic_compare_exchange_strong(&current, &l, mine))
            l = mine; /* the inherited one is leaked: threads that vanished hold its mutexes */
        else
            free(mine);
    }
    return &l->places[((uintptr_t)word >> 4) % PLACES];
}

int park(fs_word *word, uint64_t expected, int64_t deadline, const fs_api *fs) {
    place *p = place_of(word, fs);
    int64_t now = monotonic_ns(), left = deadline - now;
    struct timespec until;
    int error = 0;
    if (left <= 0) return PARK_TIMED_OUT;
    if (left > SLICE) left = SLICE;
    if (!p) {
        sched_yield();
        return PARK_WOKEN;
    }
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += (until.tv_nsec + left) / NS;
    until.tv_nsec = (until.tv_nsec + left) % NS;
    pthread_mutex_lock(&p->mutex);
    if ((uint32_t)atomic_load(word) == (uint32_t)expected)
        error = pthread_cond_timedwait(&p->woken, &p->mutex, &until);
    pthread_mutex_unlock(&p->mutex);
    if (error != ETIMEDOUT) return PARK_WOKEN;
    return monotonic_ns() >= deadline ? PARK_TIMED_OUT : PARK_INTERRUPTED;
}

/* Words share places, so all sleepers of the place look again. */
void unpark(fs_word *word, int how_many, const fs_api *fs) {
    place *p = place_of(word, fs);
    (void)how_many;
    if (!p) return;
    pthread_mutex_lock(&p->mutex);
    pthread_cond_broadcast(&p->woken);
    pthread_mutex_unlock(&p->mutex);
}

#endif

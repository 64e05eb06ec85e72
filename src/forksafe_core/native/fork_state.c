/* fork_state.c: see fork_state.h for the contract. No Python API here: the handler may not call any. */
#define _GNU_SOURCE
#include "fork_state.h"

#include "descriptors.h"
#include "glibc_floor.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/syscall.h>
#ifndef MADV_WIPEONFORK
#define MADV_WIPEONFORK 18
#endif
#endif

/* One for each thread that has a token, so that a holder can be named. Pushed once, reused, never freed. */
typedef struct fs_thread {
    fs_word token; /* 0: free for the next thread */
    fs_word ident;
    struct fs_thread *next;
} fs_thread;

static fs_state state;
static int wipes;
static fs_word known_pid;   /* the process that last noticed what it is */
static fs_word noticing;    /* pid of the process in which a thread is noticing a late fork */
static fs_word late_target; /* the generation that an unfinished late notice was about to enter */
static _Atomic(fs_thread *) threads;
static pthread_key_t thread_key;
static _Thread_local uint64_t own_token;

static uint64_t max_u64(uint64_t a, uint64_t b) { return a > b ? a : b; }

static uint64_t next_generation(void) {
    return max_u64(atomic_load(&state.generation), atomic_load(&late_target)) + 1;
}

/* Descriptors first: nothing may run that could use them. */
static void become_child(uint64_t generation, uint64_t survivor, int own_descriptors) {
    int error = errno;
    if (own_descriptors)
        fd_in_child(atomic_load(&state.generation));
    else
        atomic_fetch_add(&state.left_shared, 1);
    errno = error;
    atomic_store(&state.watermark, atomic_load(&state.last_token));
    atomic_store(&state.survivor, survivor);
    atomic_store(&state.generation, generation);
    atomic_store(&known_pid, (uint64_t)getpid());
    if (!wipes) {
        atomic_store(&state.page->fast, 0);
        atomic_store(&state.page->settled, 0);
    }
    atomic_store(&state.page->stamp, generation + 1);
}

/* The pthread_atfork child handler. The thread's record is read through its key: a thread-local variable
 * that this thread never touched would be allocated by reading it. */
static void in_child(void) {
    fs_thread *self = pthread_getspecific(thread_key);
    become_child(next_generation(), self ? atomic_load(&self->token) : 0, 1);
}

static int unnoticed(void) {
    if (wipes) return atomic_load_explicit(&state.page->stamp, memory_order_acquire) == 0;
    return atomic_load(&known_pid) != (uint64_t)getpid();
}

/* The only thread that a fork leaves is the first of its process. */
static int is_first_thread(void) {
#ifdef __linux__
    return syscall(SYS_gettid) == (long)getpid();
#else
    return 0;
#endif
}

/* Tokens are issued only after noticing, so a thread that has one in an unnoticed child is the one that forked. */
static void notice_late(void) {
    uint64_t me = (uint64_t)getpid(), busy = atomic_load(&noticing);
    if (busy == me || !atomic_compare_exchange_strong(&noticing, &busy, me)) {
        while (unnoticed()) sched_yield();
        return;
    }
    if (unnoticed()) {
        uint64_t survivor = own_token ? own_token : is_first_thread() ? 0 : FS_SURVIVOR_UNKNOWN;
        uint64_t generation = next_generation();
        atomic_store(&late_target, generation);
        atomic_fetch_add(&state.late_forks, 1);
        become_child(generation, survivor, fd_is_table_our_own(atomic_load(&known_pid)));
    }
    atomic_store(&noticing, 0);
}

void fs_notice(void) {
    if (unnoticed()) notice_late();
}

int fs_mark_settled(void) {
    fs_notice();
    if (atomic_load(&state.page->settled)) return 0;
    atomic_store(&state.page->settled, 1);
    atomic_store(&state.page->fast, !atomic_load(&state.tracking));
    return 1;
}

void fs_set_tracking(int on) {
    fs_notice();
    atomic_store(&state.tracking, on != 0);
    atomic_store(&state.page->fast, !on && atomic_load(&state.page->settled));
}

static uint64_t survivor(void) {
    uint64_t known = atomic_load(&state.survivor);
    if (known != FS_SURVIVOR_UNKNOWN) return known;
    if (own_token && own_token <= atomic_load(&state.watermark))
        known = own_token;
    else if (is_first_thread())
        known = 0;
    else
        return known;
    atomic_store(&state.survivor, known);
    return known;
}

uint64_t fs_generation(void) {
    fs_notice();
    survivor(); /* the survivor shows itself by calling anything */
    return atomic_load(&state.generation);
}

int fs_gone(uint64_t token) {
    uint64_t s;
    fs_notice();
    if (token > atomic_load(&state.watermark)) return 0;
    s = survivor();
    if (s == FS_SURVIVOR_UNKNOWN) return -1;
    return token != s;
}

static void thread_ends(void *record) { atomic_store(&((fs_thread *)record)->token, 0); }

static fs_thread *claim_record(uint64_t token) {
    fs_thread *r;
    for (r = atomic_load(&threads); r; r = r->next) {
        uint64_t old = atomic_load(&r->token);
        if ((old == 0 || fs_gone(old) == 1) && atomic_compare_exchange_strong(&r->token, &old, token)) return r;
    }
    if (!(r = malloc(sizeof *r))) return NULL;
    atomic_init(&r->token, token);
    atomic_init(&r->ident, 0);
    r->next = atomic_load(&threads);
    while (!atomic_compare_exchange_weak(&threads, &r->next, r)) continue;
    return r;
}

uint64_t fs_token(void) {
    if (!own_token) {
        fs_thread *r;
        uint64_t token;
        fs_notice();
        token = atomic_fetch_add(&state.last_token, 1) + 1;
        if (!(r = claim_record(token))) return 0;
        atomic_store(&r->ident, (uint64_t)(uintptr_t)pthread_self());
        if (pthread_setspecific(thread_key, r)) {
            atomic_store(&r->token, 0);
            return 0;
        }
        own_token = token;
    }
    return own_token;
}

uint64_t fs_ident_of(uint64_t token) {
    fs_thread *r;
    for (r = atomic_load(&threads); token && r; r = r->next)
        if (atomic_load(&r->token) == token) {
            uint64_t ident = atomic_load(&r->ident);
            return atomic_load(&r->token) == token ? ident : 0;
        }
    return 0;
}

int fs_wipes(void) { return wipes; }

/* 1: children will find the page zeroed. A kernel or emulator that accepts any advice is not trusted. */
static int wipe_on_fork(void *page, size_t size) {
#if defined(__linux__)
    return madvise(page, size, -1) != 0 && madvise(page, size, MADV_WIPEONFORK) == 0;
#elif defined(MAP_INHERIT_ZERO)
    return minherit(page, size, MAP_INHERIT_ZERO) == 0;
#elif defined(INHERIT_ZERO)
    return minherit(page, size, INHERIT_ZERO) == 0;
#else
    (void)page, (void)size;
    return 0;
#endif
}

int fs_init(void) {
    size_t size = (size_t)sysconf(_SC_PAGESIZE);
    void *page;
    int error;
    if (state.page) return 0;
    page = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED) return errno;
    if ((error = pthread_key_create(&thread_key, thread_ends))) return error;
    wipes = wipe_on_fork(page, size);
    state.page = page;
    atomic_store(&known_pid, (uint64_t)getpid());
    atomic_store(&state.page->settled, 1);
    atomic_store(&state.page->fast, 1);
    atomic_store(&state.page->stamp, 1);
    return pthread_atfork(NULL, NULL, in_child);
}

const fs_api *fs_get_api(void) {
    static fs_api api;
    api = (fs_api){&state, state.page, fs_token, fs_gone, fs_ident_of};
    return &api;
}

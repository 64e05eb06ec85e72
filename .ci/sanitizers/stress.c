/* stress.c: the core's C without an interpreter, hammered by threads that really run at once. For a sanitizer.
 *
 * Usage: stress SECONDS. Exit status 0, or 1 with what was wrong on stderr.
 *
 * Why it is here: Python's tests run under the GIL, which orders nearly everything before a sanitizer can ask whether
 * our own memory orders do. Here nothing else does. What a word protects is plain data, so that ThreadSanitizer sees
 * each acquire and release that is too weak, and the counts at the end see each lost update.
 */
#define _GNU_SOURCE
#include "descriptors.h"
#include "fork_state.h"
#include "lock_tracking.h"
#include "lock_word.h"
#include "permits.h"
#include "semaphore_word.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define THREADS 6
#define MOST_INSIDE 2
#define MS 1000000LL

static int64_t end_at;
static _Atomic int failures;

static fs_word lock, mutex_word, few_word, tracked;
static uint64_t locked_count, mutex_count; /* plain: protected by the words above */
static _Atomic uint64_t lock_turns, mutex_turns;
static _Atomic int inside;
static permits *held;
static int pipes[THREADS][2];

static void expect(int so, const char *what) {
    if (so) return;
    atomic_fetch_add(&failures, 1);
    fprintf(stderr, "stress: not so: %s\n", what);
}

static int go_on(void) { return monotonic_ns() < end_at; }

/* As _locks.pyx does: the fast path, else the slow one; now and then with so short a deadline that it passes. */
static int take(uint64_t self, int turn) {
    int64_t deadline = turn % 7 ? NO_DEADLINE : monotonic_ns() + turn % 3 * MS / 50;
    if (lw_take_free(&lock, self)) return 1;
    for (;;) {
        int got = lw_wait(lw_owner(&lock), self, deadline);
        if (got == LW_TAKEN) return 1;
        if (got == LW_WOULD_BLOCK) return 0;
        expect(got == LW_INTERRUPTED, "no lock is orphaned in the process that made it");
    }
}

static void use_lock(uint64_t self, int turn) {
    if (!take(self, turn)) return;
    expect(lw_held_by(lw_owner(&lock), self), "who took the lock holds it");
    lt_note_taken(&lock);
    locked_count++;
    atomic_fetch_add_explicit(&lock_turns, 1, memory_order_relaxed);
    if (!lw_give_uncontended(&lock, self) && !lw_give_back(&lock)) lw_release(lw_owner(&lock));
}

static void use_semaphores(int turn) {
    if (!sw_take_free(&mutex_word)) while (sw_wait(&mutex_word, NO_DEADLINE) != LW_TAKEN) continue;
    mutex_count++;
    atomic_fetch_add_explicit(&mutex_turns, 1, memory_order_relaxed);
    expect(sw_give(&mutex_word, 1, 1), "no permit too many");
    if (sw_wait(&few_word, turn % 5 ? NO_DEADLINE : monotonic_ns() + MS / 50) == LW_TAKEN) {
        expect(atomic_fetch_add(&inside, 1) < MOST_INSIDE, "no more inside than there are permits");
        atomic_fetch_sub(&inside, 1);
        expect(sw_give(&few_word, 1, MOST_INSIDE), "no permit too many");
    }
}

static void use_permits(uint64_t self) {
    expect(permits_add(held, self) && permits_add(held, self), "memory for permits");
    permits_remove(held, self, 2);
}

static void use_descriptors(int number) {
    int certain;
    expect(fd_flag(pipes[number][0], fs_generation(), &certain) == 0, "an open descriptor can be flagged");
    expect(fd_is_flagged(pipes[number][0]), "what was flagged is");
    fd_unflag(pipes[number][0]);
    (void)lt_taken_at(&tracked);
}

static void *work(void *argument) {
    int number = (int)(intptr_t)argument;
    uint64_t self = lw_get_self();
    expect(self != 0, "memory for a token");
    for (int turn = 0; go_on(); turn++) {
        use_lock(self, turn);
        use_semaphores(turn);
        use_permits(self);
        if (turn % 64 == 0) use_descriptors(number);
    }
    return NULL;
}

/* Threads that come and go: records are reused, tokens never. */
static void *pass_by(void *argument) {
    *(uint64_t *)argument = fs_token();
    expect(fs_ident_of(fs_token()) == (uint64_t)(uintptr_t)pthread_self(), "a token names its thread");
    return NULL;
}

static void *come_and_go(void *unused) {
    uint64_t last = 0;
    (void)unused;
    while (go_on()) {
        uint64_t token = 0;
        pthread_t thread;
        if (pthread_create(&thread, NULL, pass_by, &token)) continue;
        pthread_join(thread, NULL);
        expect(token > last, "no token is issued twice");
        last = token;
    }
    return NULL;
}

/* The child of a fork in the middle of it all: system calls and atomics only, as in the handler. */
static int child(uint64_t parent_generation, uint64_t self) {
    int got;
    if (fs_generation() == parent_generation) return 2;
    if (fs_token() != self || fs_gone(self) != 0) return 3;
    if (fd_is_flagged(pipes[0][1])) return 4; /* a tombstone: no more the file that was flagged */
    got = lw_try(lw_owner(&lock), self);
    if (got != LW_TAKEN && got != LW_ORPHAN) return 5;
    lw_release(lw_owner(&lock));
    if (!lw_take_free(&lock, self) && lw_try(lw_owner(&lock), self) != LW_TAKEN) return 6;
    return 0;
}

/* Every other one runs no handlers: the child finds out for itself. Not where it would wait for ever for a lock that
 * nobody saw to: ThreadSanitizer's own, or malloc's, which parking without futexes calls. */
static pid_t fork_by(int turn) {
#if defined(SYS_clone) && !defined(__SANITIZE_THREAD__) && !defined(FORKSAFE_PORTABLE_PARKING)
    if (turn % 2) return (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
#endif
    (void)turn;
    return fork();
}

static void child_hangs(int number) {
    static const char said[] = "stress: a child hangs\n";
    (void)number;
    _exit(write(2, said, sizeof said - 1) < 0 ? 2 : 1);
}

static void fork_some(uint64_t self) {
    int certain;
    expect(fd_flag(pipes[0][1], fs_generation(), &certain) == 0, "an open descriptor can be flagged");
    for (int turn = 0; go_on(); turn++) {
        uint64_t generation = fs_generation();
        int status = 0;
        pid_t pid = fork_by(turn);
        if (pid == 0) _exit(child(generation, self));
        alarm(20);
        if (pid > 0 && waitpid(pid, &status, 0) == pid && status) {
            fprintf(stderr, "stress: child %d ended with status %#x\n", turn, status);
            atomic_fetch_add(&failures, 1);
        }
        alarm(0);
        usleep(2000);
    }
}

int main(int argc, char **argv) {
    pthread_t workers[THREADS], passers;
    if (argc != 2 || fs_init() || signal(SIGALRM, child_hangs) == SIG_ERR) return 2;
    lw_set_api(fs_get_api());
    end_at = monotonic_ns() + atoll(argv[1]) * 1000 * MS;
    held = permits_new();
    atomic_store(&mutex_word, 1 << 1);
    atomic_store(&few_word, MOST_INSIDE << 1);
    for (int i = 0; i < THREADS; i++)
        if (!held || pipe(pipes[i])) return 2;
    for (intptr_t i = 0; i < THREADS; i++)
        if (pthread_create(&workers[i], NULL, work, (void *)i)) return 2;
    if (pthread_create(&passers, NULL, come_and_go, NULL)) return 2;
    fork_some(lw_get_self());
    for (int i = 0; i < THREADS; i++) pthread_join(workers[i], NULL);
    pthread_join(passers, NULL);
    expect(locked_count == lock_turns, "each turn with the lock was counted");
    expect(mutex_count == mutex_turns, "each turn with the semaphore was counted");
    expect(sw_value(&few_word) == MOST_INSIDE, "all permits came back");
    expect(!lw_is_held(lw_owner(&lock)), "the lock is free");
    permits_keep_only(held, 0);
    permits_free(held);
    printf("stress: %llu turns with a lock, %llu with a semaphore\n", (unsigned long long)lock_turns,
           (unsigned long long)mutex_turns);
    return failures != 0;
}

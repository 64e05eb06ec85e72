/* fork_state.h: what this process knows about the forks that made it.
 *
 * Guarantees
 *   - fs_generation() differs between a process and every child it forked, whichever way the fork was
 *     made, as long as the platform wipes pages on fork or gives the child another pid.
 *   - A thread's token is never given to another thread, here or in any child; the thread that called
 *     fork keeps its token in the child.
 *   - fs_gone(token) is 1 only when the thread with that token vanished in a fork.
 *   - A fork costs one signal-safe handler in the child: a few atomic stores, whatever exists.
 *
 * Why that survives fork: the state is static. A page that the kernel zeroes in children says "you are a
 * child that has not noticed". The pthread_atfork child handler notices at once; forks that run no handler
 * (_Fork, raw clone) are noticed at the next slow path, by whichever thread comes first. There is no prepare
 * and no parent handler: nothing to undo when fork fails, nothing to order against other forks.
 *
 * Not covered: vfork and posix_spawn (the child shares this memory until exec). Forks in a row that no call
 * noticed count as one generation.
 */
#ifndef FORKSAFE_FORK_STATE_H
#define FORKSAFE_FORK_STATE_H

#include <stdatomic.h>
#include <stdint.h>

typedef _Atomic uint64_t fs_word;

/* Lies in a page that is zero in a child: what is nonzero here was written by this very process. */
typedef struct {
    fs_word stamp;   /* generation + 1, once this process has noticed which generation it is */
    fs_word settled; /* 1 once the after_in_child hooks have run here, or need not */
    fs_word fast;    /* 1 while that is so and locks are not tracked: their fast paths ask this */
} fs_page;

#define FS_SURVIVOR_UNKNOWN UINT64_MAX

typedef struct {
    fs_page *page;
    fs_word generation;
    fs_word last_token; /* tokens are issued from a counter that a child goes on with */
    fs_word watermark;  /* the last token issued before the fork that made this process */
    fs_word survivor;   /* the token of the thread that forked; 0: it had none; or FS_SURVIVOR_UNKNOWN */
    fs_word forking;    /* the thread between its Python `before` and `after` hooks: its child's hooks will come */
    fs_word tracking;   /* 1 while it is noted which lock was taken when: then every acquire takes the slow path */
    fs_word late_forks; /* forks in this line of processes that were noticed without a handler */
    fs_word left_shared; /* those of them that may share the parent's descriptors, which were left alone */
} fs_state;

/* Registers the handler and makes the page. Once a process; 0, or an errno value. */
int fs_init(void);
int fs_wipes(void); /* 1 where the kernel wipes the page, 0 where pids are compared instead */

/* Finds out about a fork that ran no handler. Cheap; every function below calls it. */
void fs_notice(void);
uint64_t fs_generation(void);

/* The after_in_child hooks run now, or have run. 1 for the caller that changed it. */
int fs_mark_settled(void);
void fs_set_tracking(int on);

/* The calling thread's token, issued at first use. 0: no memory. */
uint64_t fs_token(void);

/* 1: vanished in a fork. 0: not. -1: not known yet, because a fork was found late, by another thread. */
int fs_gone(uint64_t token);

/* threading.get_ident() of a token's thread; 0 when it ended or is not known. */
uint64_t fs_ident_of(uint64_t token);

/* The same for the other compiled modules: each is a shared object of its own, and the state must be one. */
typedef struct {
    fs_state *state;
    fs_page *page;
    uint64_t (*token)(void);
    int (*gone)(uint64_t token);
    uint64_t (*ident_of)(uint64_t token);
} fs_api;

#define FS_API_CAPSULE "forksafe_core._atfork._C_API"
const fs_api *fs_get_api(void);

#endif

/* permits.h: which thread holds how many of a semaphore's permits, so that a child can get back those of the
 * threads that vanished.
 *
 * A slot is token << 16 | permits, changed by compare-and-swap; slots of threads that hold none are reused, so
 * there are as many as threads ever held at once. Any thread may release: one that holds no permit returns that of
 * a thread that does.
 *
 * Not covered: more than 65535 permits held by one thread are counted as 65535.
 */
#ifndef FORKSAFE_PERMITS_H
#define FORKSAFE_PERMITS_H

#include "lock_word.h"

#define PERMITS_SLOTS 7

typedef struct permits {
    fs_word slots[PERMITS_SLOTS];
    _Atomic(struct permits *) more;
} permits;

permits *permits_new(void);
void permits_free(permits *p);
int permits_add(permits *p, uint64_t token); /* 0: no memory */
void permits_remove(permits *p, uint64_t token, uint64_t how_many);
uint64_t permits_held(permits *p, uint64_t token);
void permits_keep_only(permits *p, uint64_t token);

#endif

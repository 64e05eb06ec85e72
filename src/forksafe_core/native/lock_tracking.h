/* lock_tracking.h: since when a lock is held, noted while locks are tracked.
 *
 * A table of fixed size, by the lock's address: taking a lock overwrites its place. So nothing is allocated, waited for
 * or freed, and a lock needs no more memory. An answer may be missing, but is never that of another lock.
 */
#ifndef FORKSAFE_LOCK_TRACKING_H
#define FORKSAFE_LOCK_TRACKING_H

#include "fork_state.h"

void lt_note_taken(fs_word *owner);

/* Nanoseconds of CLOCK_MONOTONIC, to a few milliseconds; 0: not known. */
uint64_t lt_taken_at(fs_word *owner);

/* Call when tracking begins: what was noted before may be of other locks at the same addresses. */
void lt_forget(void);

#endif

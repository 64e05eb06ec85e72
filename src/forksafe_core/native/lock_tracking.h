/* lock_tracking.h: since when a lock is held, noted while somebody wants to know.
 *
 * A table of fixed size, by the lock's address: who takes a lock overwrites whatever lay in its place. So nothing is
 * allocated, waited for or freed, a lock costs no byte more, and an answer may be missing, but is never another lock's.
 */
#ifndef FORKSAFE_LOCK_TRACKING_H
#define FORKSAFE_LOCK_TRACKING_H

#include "fork_state.h"

void lt_note_taken(fs_word *owner);

/* Nanoseconds of CLOCK_MONOTONIC, to a few milliseconds; 0: not known. */
uint64_t lt_taken_at(fs_word *owner);

/* To be called when noting begins: what was noted before is not of those who have the locks at these addresses now. */
void lt_forget(void);

#endif

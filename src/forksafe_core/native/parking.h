/* parking.h: sleep while a word has a value.
 *
 * Guarantees: park() returns at once when the word's low half already differs, else when it is unparked, its
 * deadline passes or a signal arrives. It may return for no reason: callers loop. Nothing is kept in the word.
 *
 * Why that survives fork: on Linux the kernel keeps the sleepers (futex) and a child starts with none.
 * Elsewhere they sleep at places that belong to one generation; a child makes its own and leaks the inherited.
 */
#ifndef FORKSAFE_PARKING_H
#define FORKSAFE_PARKING_H

#include "fork_state.h"

enum { PARK_WOKEN, PARK_TIMED_OUT, PARK_INTERRUPTED };

#define NO_DEADLINE INT64_MAX

int64_t monotonic_ns(void);
int64_t deadline_after(double seconds); /* never NO_DEADLINE, however far away */
/* `deadline` is on monotonic_ns()'s clock. `fs` tells the generation where places are ours. */
int park(fs_word *word, uint64_t expected, int64_t deadline, const fs_api *fs);
void unpark(fs_word *word, int how_many, const fs_api *fs);

#endif

/* descriptors.h: descriptors that a child must not have, replaced before anything else runs there.
 *
 * Guarantees
 *   - A flagged descriptor is, in every child, a tombstone: its number stays taken, so a later close() hits no
 *     unrelated file, and nothing can be sent to or received from what was flagged. A socket becomes a socket without
 *     a peer (send: EPIPE, recv: end of file); anything else a file that cannot be read, written or polled (EBADF).
 *   - Only the very file that was flagged is replaced; a number that was closed and reused is left alone. On Linux the
 *     open file itself is marked. Elsewhere, and where that is not allowed, it is known by (st_dev, st_ino).
 *   - A fork costs nothing for descriptors that are not flagged, and about two system calls for one that is.
 *
 * Why that survives fork: the table is read in the pthread_atfork child handler, with system calls only. Entries
 * carry the generation that flagged them, so a child does not write to the table.
 * Tombstones are made in the child: the program could close one that is kept ready in the parent.
 *
 * Not covered: where only (st_dev, st_ino) is known, the same regular file (or another epoll, eventfd, timerfd) opened
 * under the number of one that was closed; the layer above is told which these are. A flagged file that dup2() puts
 * over another flagged number counts as flagged there.
 * Where no tombstone can be made at all (no free number and a limit below the flagged one), it is closed.
 */
#ifndef FORKSAFE_DESCRIPTORS_H
#define FORKSAFE_DESCRIPTORS_H

#include <stdint.h>

/* All return 0 or an errno value, except the two that answer a question. */
int fd_flag(int fd, uint64_t generation, int *certain); /* certain: by its mark */
int fd_unflag(int fd);        /* 1: it was flagged */
int fd_is_flagged(int fd);    /* 1: in a child it would be replaced now */
int fd_next_flagged(int fd);  /* the first flagged descriptor from fd on; -1: there is none */
int fd_tombstone(int fd);     /* replaces it here and now */

/* In a child: replaces what was flagged up to this generation. */
void fd_in_child(uint64_t generation);
/* In a child of a fork that ran no handler: 1 when this process does not share its descriptor table. */
int fd_is_table_our_own(uint64_t parent_pid);

#endif

/* descriptors.c: see descriptors.h for the contract. No Python API here; system calls and atomics in the child. */
#define _GNU_SOURCE
#include "descriptors.h"

#include "glibc_floor.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>
#ifdef __linux__
#include <linux/kcmp.h>
#include <sys/syscall.h>
#endif

typedef _Atomic uint64_t word;

/* In the low bits of a descriptor's mark; above them the generation that flagged it, plus one. 0: not flagged. */
enum { BY_SIGNAL = 1, IS_SOCKET = 2, MARK_BITS = 2 };

typedef struct {
    word device, inode;
} identity;

/* Numbers are dense from 0 up, so the table is an array in pieces that are made when needed and stay. */
#define PIECE 1024
#define PIECES 16384

typedef struct {
    word newest; /* the generation, plus one, that flagged something here last */
    word marks[PIECE]; /* apart from the rest: a child with cold caches reads only these */
    identity files[PIECE];
} piece;

static _Atomic(piece *) pieces[PIECES];
static word pieces_used; /* no piece from this one on */
static word oldest;      /* flags of earlier generations have been replaced */

/* Linux keeps with every open file the signal that F_SETSIG chose for O_ASYNC. 0 means SIGIO, and so does SIGIO:
 * choosing SIGIO marks the file without a change, and a file opened later under its number has no mark. It is also the
 * cheapest to ask: fstat() in a child with cold caches costs more than all the rest. */
static int mark_file(int fd) {
#ifdef F_SETSIG
    int signal = fcntl(fd, F_GETSIG);
    return signal == SIGIO || (signal == 0 && fcntl(fd, F_SETSIG, SIGIO) == 0 && fcntl(fd, F_GETSIG) == SIGIO);
#else
    (void)fd;
    return 0;
#endif
}

static int is_still(const identity *file, uint64_t mark, int fd) {
    struct stat st;
#ifdef F_SETSIG
    if (mark & BY_SIGNAL) {
        int signal = fcntl(fd, F_GETSIG);
        if (signal == SIGIO) return 1;
        if (signal <= 0) return 0;
        /* the program has chosen another signal since */
    }
#endif
    return fstat(fd, &st) == 0 && (uint64_t)st.st_dev == atomic_load(&file->device) &&
           (uint64_t)st.st_ino == atomic_load(&file->inode) && !S_ISSOCK(st.st_mode) == !(mark & IS_SOCKET);
}

static piece *piece_of(int fd) {
    return fd < 0 || fd / PIECE >= PIECES ? NULL : atomic_load(&pieces[fd / PIECE]);
}

static piece *make_piece(int fd) {
    size_t number = (size_t)(fd / PIECE);
    piece *mine, *there = NULL;
    uint64_t used = atomic_load(&pieces_used);
    if (!(mine = calloc(1, sizeof *mine))) return NULL;
    if (!atomic_compare_exchange_strong(&pieces[number], &there, mine)) {
        free(mine);
        mine = there;
    }
    while (used <= number && !atomic_compare_exchange_weak(&pieces_used, &used, number + 1)) continue;
    return mine;
}

int fd_flag(int fd, uint64_t generation, int *certain) {
    struct stat st;
    piece *p = piece_of(fd);
    word *mark;
    if (fstat(fd, &st)) return errno;
    if (fd / PIECE >= PIECES) return ERANGE;
    if (!p && !(p = make_piece(fd))) return ENOMEM;
    *certain = mark_file(fd);
    mark = &p->marks[fd % PIECE];
    atomic_store(mark, 0); /* a fork just now finds it not flagged yet, never half flagged */
    atomic_store(&p->files[fd % PIECE].device, (uint64_t)st.st_dev);
    atomic_store(&p->files[fd % PIECE].inode, (uint64_t)st.st_ino);
    atomic_store(&p->newest, generation + 1);
    atomic_store(mark, (generation + 1) << MARK_BITS | (*certain ? BY_SIGNAL : 0) |
                           (S_ISSOCK(st.st_mode) ? IS_SOCKET : 0));
    return 0;
}

/* The mark; 0 also if an earlier child has replaced it already. */
static uint64_t still_due(const word *mark, uint64_t since) {
    uint64_t m = atomic_load_explicit(mark, memory_order_acquire);
    return m >> MARK_BITS > since ? m : 0;
}

int fd_unflag(int fd) {
    piece *p = piece_of(fd);
    int was = fd_is_flagged(fd);
    if (p) atomic_store(&p->marks[fd % PIECE], 0);
    return was;
}

int fd_is_flagged(int fd) {
    piece *p = piece_of(fd);
    uint64_t mark = p ? still_due(&p->marks[fd % PIECE], atomic_load(&oldest)) : 0;
    return mark && is_still(&p->files[fd % PIECE], mark, fd);
}

int fd_next_flagged(int fd) {
    int end = (int)atomic_load(&pieces_used) * PIECE;
    for (fd = fd < 0 ? 0 : fd; fd < end; fd++) {
        if (!piece_of(fd))
            fd |= PIECE - 1;
        else if (fd_is_flagged(fd))
            return fd;
    }
    return -1;
}

/* Tombstones. One of each kind serves all: the others are duplicates of it. */

typedef struct {
    int socket, file;         /* -1: not made yet */
    int socket_stays, file_stays; /* it lies under a number that was flagged itself */
    int raised;
    struct rlimit limit; /* as it was before it was raised */
} tombstones;

/* A number less than the limit has to be free. Only this child's limit is raised, and only for a moment. */
static int raise_limit(tombstones *t) {
    struct rlimit more;
    if (t->raised || getrlimit(RLIMIT_NOFILE, &t->limit)) return 0;
    more = t->limit;
    more.rlim_cur = more.rlim_max;
    t->raised = more.rlim_cur != t->limit.rlim_cur && setrlimit(RLIMIT_NOFILE, &more) == 0;
    return t->raised;
}

static int cloexec(int fd) {
    if (fd >= 0) fcntl(fd, F_SETFD, FD_CLOEXEC);
    return fd;
}

/* A pair with its other end closed. AF_UNIX needs no network. A write to a packet socket raises no SIGPIPE. On an
 * unconnected socket drivers wait for ever. */
static int make_socket(void) {
    int pair[2];
#ifdef __APPLE__
    int yes = 1, type = SOCK_STREAM;
#else
    int type = SOCK_SEQPACKET;
#endif
    if (socketpair(AF_UNIX, type, 0, pair)) {
        /* With a single number free: both directions of one that has no peer are shut. */
        if (errno != EMFILE || (pair[0] = socket(AF_UNIX, type, 0)) < 0) return -1;
        shutdown(pair[0], SHUT_RDWR);
        return cloexec(pair[0]);
    }
    close(pair[1]);
#ifdef __APPLE__
    setsockopt(pair[0], SOL_SOCKET, SO_NOSIGPIPE, &yes, sizeof yes);
#endif
    return cloexec(pair[0]);
}

/* Not /dev/null opened for writing: what is written there is lost silently. Without O_PATH (macOS, NetBSD,
 * OpenBSD) a dead socket serves: end of file to readers, EPIPE to writers. */
static int make_file(void) {
#ifdef O_PATH
    int fd = open("/dev/null", O_PATH | O_CLOEXEC);
    if (fd < 0 && errno != EMFILE && errno != ENFILE) fd = open("/", O_PATH | O_CLOEXEC);
    return fd;
#else
    return make_socket();
#endif
}

/* The tombstone to duplicate; it may be made under this very number. -1: none can be made. */
static int tombstone_for(tombstones *t, int fd, uint64_t kind) {
    int *which = kind & IS_SOCKET ? &t->socket : &t->file, *stays = kind & IS_SOCKET ? &t->socket_stays : &t->file_stays;
    int (*make)(void) = kind & IS_SOCKET ? make_socket : make_file;
    if (*which >= 0) return *which;
    if ((*which = make()) < 0 && raise_limit(t)) *which = make();
    if (*which < 0 && (errno == EMFILE || errno == ENFILE)) {
        close(fd); /* it is to be replaced anyway, and frees the number that is missing */
        *which = make();
        *stays = *which == fd;
    }
    if (*which < 0 && kind & IS_SOCKET) return tombstone_for(t, fd, 0); /* a sandbox may allow no sockets */
    return *which;
}

static int duplicate(int from, int to) {
    int got;
#ifdef __linux__
    while ((got = (int)syscall(SYS_dup3, from, to, O_CLOEXEC)) < 0 && (errno == EINTR || errno == EBUSY)) continue;
#else
    while ((got = dup2(from, to)) < 0 && (errno == EINTR || errno == EBUSY)) continue;
    if (got >= 0) cloexec(got);
#endif
    return got < 0 ? errno : 0;
}

static int replace(tombstones *t, int fd, uint64_t kind) {
    int tombstone = tombstone_for(t, fd, kind), error = EMFILE;
    if (tombstone == fd) return 0;
    if (tombstone >= 0) {
        error = duplicate(tombstone, fd);
        if (error == EBADF && raise_limit(t)) error = duplicate(tombstone, fd); /* numbers above the limit */
    }
    if (error) close(fd); /* shared with the parent would be worse */
    return error;
}

static void clean_up(tombstones *t) {
    if (t->socket >= 0 && !t->socket_stays) close(t->socket);
    if (t->file >= 0 && !t->file_stays) close(t->file);
    if (t->raised) setrlimit(RLIMIT_NOFILE, &t->limit);
}

int fd_tombstone(int fd) {
    tombstones t = {.socket = -1, .file = -1};
    struct stat st;
    int error = fstat(fd, &st) ? errno : replace(&t, fd, S_ISSOCK(st.st_mode) ? IS_SOCKET : 0);
    clean_up(&t);
    return error;
}

void fd_in_child(uint64_t generation) {
    tombstones t = {.socket = -1, .file = -1};
    uint64_t used = atomic_load(&pieces_used), since = atomic_load(&oldest);
    for (uint64_t number = 0; number < used; number++) {
        piece *p = atomic_load(&pieces[number]);
        if (!p || atomic_load(&p->newest) <= since) continue;
        for (int i = 0; i < PIECE; i++) {
            uint64_t mark = still_due(&p->marks[i], since);
            int fd = (int)(number * PIECE) + i;
            if (mark && is_still(&p->files[i], mark, fd)) replace(&t, fd, mark);
        }
    }
    clean_up(&t);
    atomic_store(&oldest, generation + 1);
}

/* After clone(CLONE_FILES) parent and child share one table: a tombstone would hit the parent. unshare() gives a
 * process of one thread its own table; with CLONE_THREAD it refuses if there are more, which would lose the shared table.
 * Where unshare() is forbidden or refuses, kcmp() may still tell that the table is not the parent's. */
int fd_is_table_our_own(uint64_t parent_pid) {
#ifdef __linux__
    if (syscall(SYS_unshare, CLONE_FILES | CLONE_THREAD) == 0) return 1;
    return (uint64_t)getppid() == parent_pid && syscall(SYS_kcmp, getpid(), getppid(), KCMP_FILES, 0, 0) > 0;
#else
    (void)parent_pid;
    return 1;
#endif
}

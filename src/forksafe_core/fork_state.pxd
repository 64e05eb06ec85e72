# What the compiled modules share of fork_state.h.
from libc.stdint cimport int64_t, uint64_t


cdef extern from "fork_state.h" nogil:
    ctypedef uint64_t fs_word

    ctypedef struct fs_page:
        fs_word stamp
        fs_word settled
        fs_word fast

    ctypedef struct fs_state:
        fs_page *page
        fs_word last_token
        fs_word watermark
        fs_word survivor
        fs_word forking
        fs_word tracking
        fs_word late_forks
        fs_word left_shared

    ctypedef struct fs_api:
        fs_state *state
        fs_page *page
        uint64_t (*token)() noexcept nogil
        int (*gone)(uint64_t token) noexcept nogil
        uint64_t (*ident_of)(uint64_t token) noexcept nogil

    const char *FS_API_CAPSULE
    uint64_t FS_SURVIVOR_UNKNOWN
    int fs_init()
    int fs_wipes()
    void fs_notice()
    uint64_t fs_generation()
    bint fs_mark_settled()
    void fs_set_tracking(bint on)
    uint64_t fs_token()
    int fs_gone(uint64_t token)
    uint64_t fs_ident_of(uint64_t token)
    const fs_api *fs_get_api()

    # <stdatomic.h>, by way of the header
    uint64_t atomic_load(fs_word *word)
    void atomic_store(fs_word *word, uint64_t value)

cdef extern from "descriptors.h" nogil:
    int fd_flag(int fd, uint64_t generation, int *certain)
    bint fd_unflag(int fd)
    bint fd_is_flagged(int fd)
    int fd_next_flagged(int fd)
    int fd_tombstone(int fd)

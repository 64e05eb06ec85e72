# What the compiled lock types share of lock_word.h.
from libc.stdint cimport int64_t, uint64_t

from forksafe_core.fork_state cimport fs_api, fs_word


cdef extern from "lock_word.h" nogil:
    ctypedef struct lw_extras:
        fs_word owner
        int torn
        double hold_timeout
        void *on_orphan

    enum:
        LW_WOULD_BLOCK, LW_TAKEN, LW_ORPHAN, LW_INTERRUPTED, LW_EXTRAS, LW_SHIFT

    const fs_api *fs
    void lw_set_api(const fs_api *api)
    uint64_t lw_self
    uint64_t lw_get_self()
    lw_extras *lw_get_extras(fs_word *word)
    fs_word *lw_owner(fs_word *word)
    bint lw_take_free(fs_word *word, uint64_t self)
    bint lw_give_back(fs_word *word)
    bint lw_is_uncontended_owner(fs_word *word, uint64_t self)
    bint lw_give_uncontended(fs_word *word, uint64_t self)
    bint lw_held_by(fs_word *owner, uint64_t self)
    int lw_try(fs_word *owner, uint64_t self)
    int lw_wait(fs_word *owner, uint64_t self, int64_t deadline)
    bint lw_is_held(fs_word *owner)
    bint lw_is_orphaned(fs_word *owner)
    bint lw_release(fs_word *owner)
    void lw_reset(fs_word *owner)

    const int64_t NO_DEADLINE
    int64_t deadline_after(double seconds)


cdef extern from *:
    """
    #define NO_WAIT (-1) /* a deadline, too: do not wait at all */
    """
    const int64_t NO_WAIT


cdef inline fs_word *word_of(uint64_t *word) noexcept nogil:
    """A field of an object, as the atomic that it is."""
    return <fs_word *>word

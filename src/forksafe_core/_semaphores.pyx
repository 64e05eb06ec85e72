"""Semaphore and BoundedSemaphore: threading's, as one word.

Guarantees: in a child a Semaphore keeps its count, since its permits may be messages, not resources. With
at_fork="restore" it gets back the permits of the threads that vanished, and so does a BoundedSemaphore; those that the
thread which forked had taken stay taken.

Why that survives fork: the first thread that uses the semaphore in the child gives the permits back, once. A stamp
tells in which process that was last done.

Not covered: permits that one thread takes and another returns are counted as returned for some thread that has one.
"""
from cpython.pycapsule cimport PyCapsule_Import
from cpython.ref cimport PyObject
from libc.stdint cimport int64_t, uint64_t, uintptr_t

from _operator import index
from threading import BoundedSemaphore as _StandardBoundedSemaphore, Semaphore as _StandardSemaphore

from forksafe_core._atfork cimport run_due_hooks
from forksafe_core.fork_state cimport FS_API_CAPSULE, FS_SURVIVOR_UNKNOWN, atomic_load, atomic_store, fs_api, fs_word
from forksafe_core.lock_word cimport *

cdef extern from "Python.h":
    int Py_MakePendingCalls() except -1

cdef extern from "semaphore_word.h" nogil:
    uint64_t SW_MAX_VALUE
    uint64_t sw_value(fs_word *word)
    bint sw_take_free(fs_word *word)
    int sw_wait(fs_word *word, int64_t deadline)
    bint sw_give(fs_word *word, uint64_t permits, uint64_t limit)
    void sw_raise_to(fs_word *word, uint64_t value)
    bint atomic_compare_exchange_strong(fs_word *word, uint64_t *expected, uint64_t value)

cdef extern from "permits.h" nogil:
    ctypedef struct permits:
        pass
    permits *permits_new()
    void permits_free(permits *p)
    bint permits_add(permits *p, uint64_t token)
    void permits_remove(permits *p, uint64_t token, uint64_t how_many)
    uint64_t permits_held(permits *p, uint64_t token)
    void permits_keep_only(permits *p, uint64_t token)

cdef extern from "sched.h" nogil:
    int sched_yield()

cdef extern from "context_methods.h":
    ctypedef object (*context_op)(object)
    int add_context_methods(object type, context_op enter, const char *enter_doc, context_op leave,
                            const char *leave_doc) except -1

lw_set_api(<const fs_api *>PyCapsule_Import(FS_API_CAPSULE, 0))

cdef uint64_t RESTORING = <uint64_t>1 << 63


cdef inline bint is_current(Semaphore self) noexcept nogil:
    """True when nothing is due: the hooks of this process have run, and the permits of the vanished are back."""
    if not atomic_load(&fs.page.settled):
        return False
    return self.holders == NULL or atomic_load(word_of(&self.stamp)) == atomic_load(&fs.page.stamp)


cdef int catch_up(Semaphore self) except -1:
    run_due_hooks()
    if self.holders != NULL:
        restore(self)
    return 0


cdef void restore(Semaphore self) noexcept nogil:
    """Give back the permits of threads that vanished. The stamp says that it is being done, or is done."""
    cdef fs_word *stamp = word_of(&self.stamp)
    cdef uint64_t now = atomic_load(&fs.page.stamp)
    cdef uint64_t survivor = atomic_load(&fs.state.survivor)
    cdef uint64_t seen = atomic_load(stamp)
    cdef uint64_t held
    if survivor == FS_SURVIVOR_UNKNOWN:
        return  # a fork found late, by another thread: no thread counts as gone yet
    while seen != now:
        if seen == now | RESTORING:
            sched_yield()
            seen = atomic_load(stamp)
        elif atomic_compare_exchange_strong(stamp, &seen, now | RESTORING):
            held = permits_held(<permits *>self.holders, survivor)
            permits_keep_only(<permits *>self.holders, survivor)
            if held < self.initial:
                sw_raise_to(word_of(&self.word), self.initial - held)
            atomic_store(stamp, now)
            return


cdef int acquire(Semaphore self, int64_t deadline) except -1:
    cdef fs_word *word = word_of(&self.word)
    cdef int got
    if not is_current(self):
        catch_up(self)
    got = LW_TAKEN if sw_take_free(word) else LW_WOULD_BLOCK
    while got == LW_WOULD_BLOCK and deadline != NO_WAIT:
        with nogil:
            got = sw_wait(word, deadline)
        if got == LW_WOULD_BLOCK:
            break
        if got == LW_INTERRUPTED:
            Py_MakePendingCalls()  # a handler may raise, or fork
            if not is_current(self):
                catch_up(self)
            got = LW_TAKEN if sw_take_free(word) else LW_WOULD_BLOCK
    if got == LW_TAKEN and self.holders != NULL:
        if not lw_get_self() or not permits_add(<permits *>self.holders, lw_self):
            sw_give(word, 1, SW_MAX_VALUE)
            raise MemoryError
    return got


cdef int release(Semaphore self, uint64_t n) except -1:
    if not is_current(self):
        catch_up(self)
    if not sw_give(word_of(&self.word), n, self.limit):
        if self.limit == SW_MAX_VALUE:
            raise OverflowError("semaphore value is too large")
        raise ValueError("Semaphore released too many times")
    if self.holders != NULL:
        permits_remove(<permits *>self.holders, lw_get_self(), n)
    return 0


cdef class Semaphore:
    """Semaphore(value=1, *, at_fork="keep")\n--\n
    threading.Semaphore that no vanished thread can block. In a child the count is what it was at the fork; with
    at_fork="restore" permits that vanished threads had taken are back, for semaphores that count resources.
    """

    def __init__(self, value=1, *, at_fork="keep"):
        if at_fork not in ("keep", "restore"):
            raise ValueError(f"{type(self).__name__}(at_fork=...) takes 'keep' or 'restore', not {at_fork!r}")
        set_up(self, value, at_fork == "restore", SW_MAX_VALUE)

    def __dealloc__(self):
        permits_free(<permits *>self.holders)

    def acquire(self, bint blocking=True, timeout=None):
        """Take a permit; True when one was taken. timeout: seconds, None for no limit."""
        cdef double seconds
        if timeout is None:
            return acquire(self, NO_DEADLINE if blocking else NO_WAIT) == LW_TAKEN
        if not blocking:
            raise ValueError("can't specify timeout for non-blocking acquire")
        seconds = timeout
        if seconds != seconds:
            raise ValueError("Invalid value NaN (not a number)")
        return acquire(self, deadline_after(seconds) if seconds > 0 else NO_WAIT) == LW_TAKEN

    def release(self, n=1):
        """Return n permits; any thread may."""
        if n < 1:
            raise ValueError("n must be one or more")
        release(self, min(index(n), SW_MAX_VALUE))

    @property
    def _value(self):
        if not is_current(self):
            catch_up(self)
        return sw_value(word_of(&self.word))

    def __repr__(self):
        return f"<forksafe.{type(self).__name__} at {<uintptr_t><PyObject *>self:#x}: value={self._value}>"

    def __reduce__(self):
        raise TypeError("cannot pickle '_thread.lock' object")

    @property
    def __class__(self):
        return _StandardSemaphore if type(self) is Semaphore else type(self)


cdef class BoundedSemaphore(Semaphore):
    """BoundedSemaphore(value=1)\n--\n
    threading.BoundedSemaphore that no vanished thread can empty. In a child the permits that vanished threads had
    taken are back; those that the thread which forked had taken stay taken.
    """

    def __init__(self, value=1):
        set_up(self, value, True, SW_MAX_VALUE)
        self.limit = self.initial

    @property
    def _initial_value(self):
        return self.initial

    def __repr__(self):
        return (f"<forksafe.{type(self).__name__} at {<uintptr_t><PyObject *>self:#x}: "
                f"value={self._value}/{self.initial}>")

    @property
    def __class__(self):
        return _StandardBoundedSemaphore if type(self) is BoundedSemaphore else type(self)


cdef object enter(object semaphore):
    acquire(<Semaphore>semaphore, NO_DEADLINE)
    return True


cdef object leave(object semaphore):
    release(<Semaphore>semaphore, 1)


add_context_methods(Semaphore, enter, b"Acquire, waiting without limit.", leave, b"Release.")


cdef int set_up(Semaphore self, value, bint restores, uint64_t limit) except -1:
    value = index(value)
    if value < 0:
        raise ValueError("semaphore initial value must be >= 0")
    if value >= SW_MAX_VALUE:
        raise OverflowError("semaphore initial value is too large")
    self.initial = value
    self.limit = limit
    atomic_store(word_of(&self.word), self.initial << 1)
    atomic_store(word_of(&self.stamp), atomic_load(&fs.page.stamp))
    if restores and self.holders == NULL:
        self.holders = permits_new()
        if self.holders == NULL:
            raise MemoryError
    return 0

"""Lock and RLock: threading's, owned by name.

Guarantees, beyond threading's: in a child, a lock held by the thread that forked is still held by it, and a lock held
by any other thread is free. A thread that waits tries again before it takes the GIL, so a released lock is not left
idle while threads queue for the interpreter.

Extras, which cost only the locks that have them:
  on_orphan      called in a child while the first acquirer holds a lock that a vanished thread had held
  hold           the layer above takes such locks before a fork and releases them on both sides

Why that survives fork: no lock is visited at a fork; lock_word.h explains how an acquire finds a vanished holder.

Not covered: data that a vanished holder was changing stays half changed; on_orphan or hold are for that.
"""
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from cpython.pycapsule cimport PyCapsule_Import
from cpython.ref cimport PyObject, Py_DECREF, Py_INCREF
from libc.stdint cimport int64_t, uint64_t, uintptr_t

from _thread import RLock as _StandardRLock, allocate_lock as _standard_lock
from _weakref import ref

from forksafe_core._atfork cimport run_due_hooks
from forksafe_core.fork_state cimport FS_API_CAPSULE, atomic_load, atomic_store, fs_api, fs_word
from forksafe_core.lock_word cimport *

cdef extern from "Python.h":
    int Py_MakePendingCalls() except -1

cdef extern from "context_methods.h":
    ctypedef object (*context_op)(object)
    int add_context_methods(object type, context_op enter, const char *enter_doc, context_op leave,
                            const char *leave_doc) except -1

cdef extern from "fast_new.h":
    void add_fast_new(object type)
    void record_new(PyObject *recorder)

cdef extern from "lock_tracking.h" nogil:
    void lt_note_taken(fs_word *owner)
    uint64_t lt_taken_at(fs_word *owner)
    void lt_forget()

lw_set_api(<const fs_api *>PyCapsule_Import(FS_API_CAPSULE, 0))

# What isinstance() tests in other people's code compare with.
cdef object _LockType = type(_standard_lock())
cdef object _RLockType = _StandardRLock

cdef double TIMEOUT_MAX = 9223372036.0  # threading.TIMEOUT_MAX where time_t has 64 bits

include "lock_extras.pxi"


cdef int64_t lock_deadline(bint blocking, double timeout) except? -2:
    """The deadline of Lock.acquire(blocking, timeout): NO_WAIT, NO_DEADLINE or a time."""
    if timeout == -1:
        return NO_DEADLINE if blocking else NO_WAIT
    if not blocking:
        raise ValueError("can't specify a timeout for a non-blocking call")
    if timeout < 0:
        raise ValueError("timeout value must be a non-negative number")
    if timeout != timeout:
        raise ValueError("Invalid value NaN (not a number)")
    if timeout > TIMEOUT_MAX:
        raise OverflowError("timeout value is too large")
    return deadline_after(timeout)


cdef int take(fs_word *word, int64_t deadline) except -1:
    """The slow path of acquire. LW_WOULD_BLOCK, LW_TAKEN or LW_ORPHAN: then repair() is next."""
    cdef fs_word *owner = lw_owner(word)
    cdef uint64_t self = lw_get_self()
    cdef int got
    if not self:
        raise MemoryError
    run_due_hooks()
    got = lw_try(owner, self)
    while got == LW_WOULD_BLOCK and deadline != NO_WAIT:
        with nogil:
            got = lw_wait(owner, self, deadline)
        if got == LW_WOULD_BLOCK:
            break
        if got == LW_INTERRUPTED:
            Py_MakePendingCalls()  # a handler may raise, or fork
            got = lw_try(owner, self)
    if got != LW_WOULD_BLOCK and atomic_load(&fs.state.tracking):
        lt_note_taken(owner)
    return got


cdef int take_repaired(fs_word *word, int64_t deadline) except -1:
    cdef int got = take(word, deadline)
    repair(word, got)
    return got


cdef int give_back(fs_word *word) except -1:
    """The slow path of release. 0: the lock was free."""
    cdef fs_word *owner = lw_owner(word)
    if owner != word and lw_is_orphaned(owner):
        lw_get_extras(word).torn = True
    return lw_release(owner)


cdef uint64_t holder_of(fs_word *owner) noexcept nogil:
    """The token of the thread that holds it; 0 when it is free, or its holder vanished."""
    cdef uint64_t word = atomic_load(owner)
    return word >> LW_SHIFT if lw_is_held(owner) else 0


cdef class Lock:
    """Lock(*, on_orphan=None, hold=False, hold_timeout=5.0)\n--\n
    threading.Lock that a fork cannot leave locked for ever. In a child it is still held if the thread that forked
    held it, and free if another thread did.

    on_orphan: called without arguments in a child, by the first thread that acquires the lock after its holder
    vanished, before acquire() returns. If it raises, the exception reaches that caller, the lock is free, and the next
    acquirer calls it again. A bound method is held weakly, anything else strongly. The garbage collector does not look
    into locks: a function that refers to the owner of the lock keeps both alive.

    hold: the forking thread takes the lock before the fork and releases it on both sides. It waits at most hold_timeout
    seconds; then the fork goes ahead, with a ForkHazardWarning.
    """

    def __init__(self, *, on_orphan=None, bint hold=False, double hold_timeout=DEFAULT_HOLD_TIMEOUT):
        add_extras(self, word_of(&self.word), on_orphan, hold, hold_timeout)

    def __dealloc__(self):
        free_extras(word_of(&self.word))

    def acquire(self, bint blocking=True, double timeout=-1):
        """Take the lock; True when it was taken. timeout: seconds, -1 for no limit."""
        cdef int64_t deadline
        if timeout == -1 and lw_take_free(word_of(&self.word), lw_self):
            return True
        deadline = lock_deadline(blocking, timeout)
        return take_repaired(word_of(&self.word), deadline) != LW_WOULD_BLOCK

    def release(self):
        """Release the lock; any thread may. RuntimeError if it is not locked."""
        lock_release(self)

    def locked(self):
        """True while a thread that exists in this process holds the lock."""
        return lw_is_held(lw_owner(word_of(&self.word)))

    acquire_lock = acquire
    release_lock = release
    locked_lock = locked

    def _at_fork_reinit(self):
        give_back(word_of(&self.word))
        lw_reset(lw_owner(word_of(&self.word)))

    def __repr__(self):
        state = "locked" if self.locked() else "unlocked"
        return f"<{state} forksafe.{type(self).__name__} object at {<uintptr_t><PyObject *>self:#x}{details_of(self)}>"

    def __reduce__(self):
        raise TypeError("cannot pickle '_thread.lock' object")

    @property
    def __class__(self):
        return _LockType if type(self) is Lock else type(self)


cdef class RLock:
    """RLock(*, on_orphan=None, hold=False, hold_timeout=5.0)\n--\n
    threading.RLock that a fork cannot leave locked for ever. In a child it is still held, as often as before, if the
    thread that forked held it, and free if another thread did. on_orphan and hold: see Lock.
    """

    def __init__(self, *, on_orphan=None, bint hold=False, double hold_timeout=DEFAULT_HOLD_TIMEOUT):
        add_extras(self, word_of(&self.word), on_orphan, hold, hold_timeout)

    def __dealloc__(self):
        free_extras(word_of(&self.word))

    def acquire(self, bint blocking=True, double timeout=-1):
        """Take the lock, once more if this thread has it; True when it was taken. timeout: seconds, -1 for no limit."""
        cdef int64_t deadline
        if timeout == -1 and enter_fast(self):
            return True
        deadline = lock_deadline(blocking, timeout)
        return enter(self, deadline) != LW_WOULD_BLOCK

    def release(self):
        """Release the lock once. RuntimeError if this thread does not hold it."""
        rlock_release(self)

    def locked(self):
        """True while a thread that exists in this process holds the lock."""
        return lw_is_held(lw_owner(word_of(&self.word)))

    def _is_owned(self):
        return lw_held_by(lw_owner(word_of(&self.word)), lw_get_self())

    def _recursion_count(self):
        return self.count if self._is_owned() else 0

    def _release_save(self):
        cdef Py_ssize_t count = self.count
        if not self._is_owned():
            raise RuntimeError("cannot release un-acquired lock")
        self.count = 0
        give_back(word_of(&self.word))
        return count, lw_self

    def _acquire_restore(self, state):
        cdef Py_ssize_t count = state[0]
        enter(self, NO_DEADLINE)
        self.count = count

    def _at_fork_reinit(self):
        # logging calls this in every child. If the thread that forked is inside a handler, the `with` block there
        # has yet to end, and its release must not raise.
        if lw_held_by(lw_owner(word_of(&self.word)), lw_get_self()) and is_survivor(lw_self):
            self.releases_to_ignore = self.count
        self.count = 0
        give_back(word_of(&self.word))
        lw_reset(lw_owner(word_of(&self.word)))

    def __repr__(self):
        cdef uint64_t holder = holder_of(lw_owner(word_of(&self.word)))
        state, count = ("locked", self.count) if holder else ("unlocked", 0)
        return (f"<{state} forksafe.{type(self).__name__} object owner={fs.ident_of(holder)} count={count} "
                f"at {<uintptr_t><PyObject *>self:#x}{details_of(self)}>")

    def __reduce__(self):
        raise TypeError("cannot pickle '_thread.RLock' object")

    @property
    def __class__(self):
        return _RLockType if type(self) is RLock else type(self)


cdef bint is_survivor(uint64_t token) noexcept nogil:
    """In a child: is this the thread that forked?"""
    return token and token == atomic_load(&fs.state.survivor)


cdef inline bint enter_fast(RLock lock) noexcept:
    cdef fs_word *word = word_of(&lock.word)
    cdef uint64_t self = lw_self
    if lw_take_free(word, self):
        lock.count = 1
        return True
    if lw_is_uncontended_owner(word, self):
        lock.count += 1
        return True
    return False


cdef int enter(RLock lock, int64_t deadline) except -1:
    cdef int got
    if lw_held_by(lw_owner(word_of(&lock.word)), lw_get_self()):
        lock.count += 1
        return LW_TAKEN
    got = take(word_of(&lock.word), deadline)
    if got != LW_WOULD_BLOCK:
        lock.count = 1  # before the repair, which may take the lock again
        repair(word_of(&lock.word), got)
    return got


cdef int lock_acquire(Lock lock) except -1:
    if not lw_take_free(word_of(&lock.word), lw_self):
        take_repaired(word_of(&lock.word), NO_DEADLINE)
    return 0


cdef int lock_release(Lock lock) except -1:
    if not lw_give_back(word_of(&lock.word)) and not give_back(word_of(&lock.word)):
        raise RuntimeError("release unlocked lock")
    return 0


cdef int rlock_acquire(RLock lock) except -1:
    if not enter_fast(lock):
        enter(lock, NO_DEADLINE)
    return 0


cdef int rlock_release(RLock lock) except -1:
    cdef uint64_t self = lw_self
    if lock.count == 1 and lw_is_uncontended_owner(word_of(&lock.word), self):
        lock.count = 0
        if not lw_give_uncontended(word_of(&lock.word), self):
            give_back(word_of(&lock.word))
        return 0
    return leave(lock)


cdef int leave(RLock lock) except -1:
    cdef fs_word *owner = lw_owner(word_of(&lock.word))
    if lw_held_by(owner, lw_self):
        if lock.count > 1:
            lock.count -= 1
            return 0
        lock.count = 0
        if not lw_give_back(word_of(&lock.word)):
            give_back(word_of(&lock.word))
        return 0
    if not lw_is_orphaned(owner):
        if lock.releases_to_ignore and is_survivor(lw_get_self()):
            lock.releases_to_ignore -= 1
            return 0
        raise RuntimeError("cannot release un-acquired lock")
    lock.count = 0
    give_back(word_of(&lock.word))
    return 0


cdef object enter_lock(object lock):
    lock_acquire(<Lock>lock)
    return True


cdef object leave_lock(object lock):
    lock_release(<Lock>lock)


cdef object enter_rlock(object lock):
    rlock_acquire(<RLock>lock)
    return True


cdef object leave_rlock(object lock):
    rlock_release(<RLock>lock)


add_context_methods(Lock, enter_lock, b"Acquire, waiting without limit.", leave_lock, b"Release.")
add_context_methods(RLock, enter_rlock, b"Acquire, waiting without limit.", leave_rlock, b"Release.")
add_fast_new(Lock)
add_fast_new(RLock)


def holder(lock):
    """The token of the thread that holds a Lock or RLock; 0 when it is free, or its holder vanished in a fork."""
    return holder_of(lw_owner(any_word(lock)))


def taken_at(lock):
    """When a Lock or RLock that is held was taken, as time.monotonic(); None if locks were not tracked then."""
    cdef fs_word *owner = lw_owner(any_word(lock))
    cdef uint64_t since = lt_taken_at(owner) if atomic_load(&fs.state.tracking) and holder_of(owner) else 0
    return since / 1e9 if since else None


def set_recorder(recorder, describe=None):
    """Call recorder(lock) with each Lock and RLock that is made from now on; None: stop that.

    describe(lock): what a lock's repr says besides, while locks are tracked. When locks were taken before is forgotten.
    """
    global _describe
    _describe = describe
    lt_forget()
    for each in (recorder, describe):
        if each is not None and each not in _recorders:
            _recorders.append(each)
    record_new(<PyObject *>recorder if recorder is not None else NULL)


cdef list _recorders = []  # for good: another thread may be about to call one that has been replaced
cdef object _describe = None


cdef str details_of(lock):
    describe = _describe
    details = "" if describe is None else describe(lock)
    return f" {details}" if details else ""


cdef fs_word *any_word(lock) except NULL:
    if isinstance(lock, Lock):
        return word_of(&(<Lock>lock).word)
    if isinstance(lock, RLock):
        return word_of(&(<RLock>lock).word)
    raise TypeError(f"a forksafe Lock or RLock is needed, not {type(lock).__name__!r}")

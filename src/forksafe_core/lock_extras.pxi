# lock_extras.pxi: on_orphan and hold, which few locks have; the others pay nothing for them. Part of _locks.pyx.
#
# The extras lie beside the lock; see lock_word.h. A lock with a repair is torn from the moment its dead holder
# is found until the repair has returned.

cdef double DEFAULT_HOLD_TIMEOUT = 5.0
cdef dict _held_across_forks = {}  # id: weak reference to a lock made with hold=True


cdef int repair(fs_word *word, int got) except -1:
    """The lock has been taken. If its holder vanished, its data may be half changed: repair it."""
    cdef lw_extras *extras = lw_get_extras(word)
    if extras == NULL or got == LW_WOULD_BLOCK:
        return 0
    if got == LW_ORPHAN:
        extras.torn = True
    if not extras.torn:
        return 0
    try:
        if extras.on_orphan:
            (<object>extras.on_orphan)()
    except BaseException:
        lw_release(&extras.owner)
        raise
    extras.torn = False
    return 0


cdef int add_extras(object lock, fs_word *word, object on_orphan, bint hold, double hold_timeout) except -1:
    cdef lw_extras *extras
    cdef str name = type(lock).__name__
    if on_orphan is not None and not callable(on_orphan):
        raise TypeError(f"{name}(on_orphan=...) takes a callable without arguments, not {type(on_orphan).__name__!r}")
    if not hold_timeout >= 0 or hold_timeout > TIMEOUT_MAX:
        raise ValueError(f"{name}(hold_timeout=...) takes seconds from 0 to threading.TIMEOUT_MAX, not {hold_timeout}")
    if on_orphan is None and not hold:
        return 0
    if atomic_load(word):
        raise RuntimeError(f"{name}.__init__() with on_orphan or hold: once, and before the lock is used")
    extras = <lw_extras *>PyMem_RawMalloc(sizeof(lw_extras))
    if extras == NULL:
        raise MemoryError
    atomic_store(&extras.owner, 0)
    extras.torn = False
    extras.hold_timeout = hold_timeout if hold else -1
    extras.on_orphan = NULL
    if on_orphan is not None:
        if getattr(on_orphan, "__self__", None) is not None and hasattr(on_orphan, "__func__"):
            on_orphan = _WeakRepair(on_orphan)
        Py_INCREF(on_orphan)
        extras.on_orphan = <void *>on_orphan
    atomic_store(word, <uint64_t><uintptr_t>extras | LW_EXTRAS)
    if hold:
        key = id(lock)
        _held_across_forks[key] = ref(lock, lambda _: _held_across_forks.pop(key, None))
    return 0


cdef class _WeakRepair:
    """A bound method held weakly: an object that owns a lock may repair it with a method, and still be freed."""
    cdef object method

    def __init__(self, method):
        from weakref import WeakMethod  # rarely used

        self.method = WeakMethod(method)

    def __call__(self):
        method = self.method()
        if method is not None:
            method()


cdef void free_extras(fs_word *word) noexcept:
    cdef lw_extras *extras = lw_get_extras(word)
    if extras != NULL:
        if extras.on_orphan:
            Py_DECREF(<object>extras.on_orphan)
        PyMem_RawFree(extras)


def hold_timeout(lock):
    """Seconds a fork waits for a lock made with hold=True; None for others."""
    cdef lw_extras *extras = lw_get_extras(any_word(lock))
    return None if extras == NULL or extras.hold_timeout < 0 else extras.hold_timeout


def held_across_forks():
    """The locks made with hold=True that are alive."""
    return [lock for lock in [find() for find in list(_held_across_forks.values())] if lock is not None]

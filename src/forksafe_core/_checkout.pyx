"""Checkout: things that are lent and come back, with a fast way for when nothing is unusual.

Slots is the state of one generation: which things there are, which of them are idle, who waits for one. Each of its
methods is one step: no Python code, signal handler or finaliser runs in the middle of it, so there is no lock that a
vanished thread could hold, and a finaliser may use a pool that its own thread is just using. In a child every Slots
of the parent is inherited: its methods change nothing any more, and what it holds is kept alive for good. Checkout
then asks the layer above for new ones.

Whatever is unusual goes to methods of the class derived from Checkout, whose names begin with an underscore.
"""
cimport cython
from cpython.pycapsule cimport PyCapsule_Import
from cpython.ref cimport PyObject, Py_INCREF
from libc.stdint cimport int64_t, uint64_t

from types import GenericAlias

from forksafe_core._atfork cimport settle
from forksafe_core._locks cimport Lock, lock_acquire, lock_release
from forksafe_core.fork_state cimport FS_API_CAPSULE, atomic_load, fs_api

cdef extern from "Python.h":
    ctypedef int (*visitproc)(PyObject *, void *) noexcept
    ctypedef int (*traverseproc)(PyObject *, visitproc, void *) noexcept
    ctypedef struct PyTypeObject:
        traverseproc tp_traverse

cdef extern from "parking.h" nogil:
    int64_t NO_DEADLINE
    int64_t monotonic_ns()
    int64_t deadline_after(double seconds)

cdef extern from "context_methods.h":
    ctypedef object (*context_op)(object)
    int add_context_methods(object type, context_op enter, context_op leave) except -1

cdef const fs_api *fs = <const fs_api *>PyCapsule_Import(FS_API_CAPSULE, 0)
cdef double MOST_SECONDS = 1e9


cdef class Item:
    """One thing that is lent, and what must be known of it when it comes back.

    reset: called without arguments then, or None. has_closed: its attribute `closed` is asked then.
    extra: for the layer above.
    """
    cdef readonly object value
    cdef public object reset
    cdef public object extra
    cdef public bint has_closed
    cdef int64_t expires
    cdef int64_t since  # idle since then
    cdef uint64_t loan  # how often it was lent
    cdef bint lent

    def __init__(self, value, *, reset=None, bint has_closed=False, double lifetime=MOST_SECONDS, extra=None):
        self.value = value
        self.reset = reset
        self.has_closed = has_closed
        self.expires = deadline_after(lifetime)
        self.extra = extra

    @property
    def expired(self):
        return self.expires <= monotonic_ns()


@cython.final
cdef class Waiter:
    """A place in the queue. When wait() ends, `item` or `error` says what it brought, or neither is there."""
    cdef public object item
    cdef public object error
    cdef Lock lock

    def __cinit__(self):
        self.lock = Lock()
        lock_acquire(self.lock)

    def wait(self, double seconds):
        """True when woken, False when the time was up."""
        return self.lock.acquire(True, min(max(seconds, 0.0), MOST_SECONDS))

    def wake(self):
        """End wait(), now or when it is called. More than once is once."""
        wake(self)


@cython.final
@cython.no_gc_clear
cdef class Slots:
    """What one process has of the things that are lent: at most max_size of them, each in a slot."""
    cdef dict items  # id of the thing: its Item. Everything in a slot, wherever it is at the moment
    cdef list idle   # the longest idle one first; the last one is lent
    cdef list waiters
    cdef dict counts
    cdef Py_ssize_t min_size
    cdef Py_ssize_t max_size
    cdef Py_ssize_t making    # slots taken by things that are being made
    cdef int64_t idle_limit   # nanoseconds
    cdef int64_t retry_at     # when to try again to make as many as min_size; 0: nothing failed
    cdef uint64_t stamp
    cdef uint64_t requests
    cdef bint slow            # something is unusual
    cdef bint watched
    cdef readonly bint closed
    cdef readonly object extra

    def __init__(self, Py_ssize_t min_size, Py_ssize_t max_size, *, double idle_limit=MOST_SECONDS,
                 bint closed=False, extra=None):
        self.items = {}
        self.idle = []
        self.waiters = []
        self.counts = {}
        self.min_size = min_size
        self.max_size = max_size
        self.idle_limit = <int64_t>(min(idle_limit, MOST_SECONDS) * 1e9)
        self.closed = closed
        self.extra = extra
        self.stamp = atomic_load(&fs.page.stamp)
        refresh(self)

    def __dealloc__(self):
        if self.stamp != atomic_load(&fs.page.stamp) and self.items is not None:
            Py_INCREF(self.items)  # inherited: kept alive for good
            Py_INCREF(self.idle)

    @property
    def inherited(self):
        """True in a child of the process that made this."""
        return is_inherited(self)

    @cython.critical_section
    def ask(self, Waiter waiter, bint again=False):
        """Lend what is idle, or queue up; again: what was lent was no good, so this one is next. False when closed."""
        if is_inherited(self) or self.closed:
            return False
        self.requests += not again
        if self.idle and (again or not self.waiters):
            waiter.item = lend(self, <Item>self.idle.pop())
        else:
            self.waiters.insert(0 if again else len(self.waiters), waiter)
            refresh(self)
        return True

    @cython.critical_section
    def withdraw(self, Waiter waiter):
        """Leave the queue. True when it was still in it."""
        cdef Py_ssize_t i
        if not is_inherited(self):
            for i in range(len(self.waiters)):
                if self.waiters[i] is waiter:
                    self.waiters.pop(i)
                    refresh(self)
                    return True
        return False

    def wake_all(self):
        """Wake everybody in the queue of the parent: whoever is left asks again."""
        while self.waiters:
            wake(<Waiter>self.waiters.pop())

    @cython.critical_section
    def reserve(self, list claim):
        """Take a slot for something that the caller is going to make, if one is free and there is a use for it.

        Then there is a new entry in claim, which goes to whoever makes it.
        """
        if is_inherited(self) or self.closed or size(self) >= self.max_size:
            return False
        if len(self.waiters) <= self.making and (size(self) >= self.min_size or self.retry_at):
            return False
        claim.append(None)
        self.making += 1
        refresh(self)
        return True

    @cython.critical_section
    def add(self, Item item):
        """Put what was made into its slot, lent to who waits first, or idle. False, and the slot is free: closed.

        ValueError, and the slot is still taken, if it is there already.
        """
        if is_inherited(self):
            return False
        if address(item.value) in self.items:
            raise ValueError("there already")
        self.making -= 1
        if self.closed:
            refresh(self)
            return False
        self.items[address(item.value)] = item
        place(self, item)
        return True

    @cython.critical_section
    def fail(self, error):
        """Making failed: the slot is free. True when somebody waited, who gets the error."""
        cdef Waiter waiter
        if is_inherited(self):
            return False
        self.making -= 1
        if error is None or not self.waiters:
            refresh(self)
            return False
        waiter = <Waiter>self.waiters.pop(0)
        waiter.error = error
        refresh(self)
        wake(waiter)
        return True

    @cython.critical_section
    def give(self, Item item):
        """Take back what its holder is done with. False when it is not wanted: closed, or too many."""
        if is_inherited(self):
            return True
        item.lent = False
        if self.closed or size(self) > self.max_size or address(item.value) not in self.items:
            return False
        place(self, item)
        return True

    @cython.critical_section
    def remove(self, Item item):
        """What was in a slot is gone, and the slot is free."""
        if not is_inherited(self):
            item.lent = False
            self.items.pop(address(item.value), None)
            refresh(self)

    @cython.critical_section
    def take_idle(self, bint only_stale=False, bint only_surplus=False):
        """Take the longest idle one out, not to lend it: any, or one that was idle or alive too long, or is too many."""
        cdef int64_t now = monotonic_ns()
        cdef Py_ssize_t i
        cdef Item item
        if is_inherited(self) or (only_surplus and size(self) <= self.max_size):
            return None
        for i in range(len(self.idle)):
            item = <Item>self.idle[i]
            if not only_stale or item.expires <= now or is_spare(self, item, now):
                return self.idle.pop(i)
        return None

    @cython.critical_section
    def take_out(self, Item item):
        """Take this one out, not to lend it. False when it is not idle."""
        cdef Py_ssize_t i
        if not is_inherited(self):
            for i in range(len(self.idle)):
                if self.idle[i] is item:
                    self.idle.pop(i)
                    return True
        return False

    @cython.critical_section
    def close(self):
        """From now on nothing is lent; those who wait are told."""
        cdef list waiters = self.waiters
        if is_inherited(self):
            return
        self.closed = True
        self.waiters = []
        refresh(self)
        for waiter in waiters:
            wake(<Waiter>waiter)

    @cython.critical_section
    def resize(self, Py_ssize_t min_size, Py_ssize_t max_size):
        self.min_size = min_size
        self.max_size = max_size
        refresh(self)

    @cython.critical_section
    def retry_in(self, double seconds):
        """Make no more for min_size's sake before that; 0: now."""
        self.retry_at = deadline_after(seconds) if seconds else 0
        refresh(self)

    @cython.critical_section
    def watch(self):
        """True when a watcher is needed and the caller is to be it."""
        if is_inherited(self) or self.watched or not needs_watching(self):
            return False
        self.watched = True
        refresh(self)
        return True

    @cython.critical_section
    def next_due(self):
        """Seconds until the watcher should look again; None when it is not needed any more and no longer counts."""
        cdef int64_t now = monotonic_ns()
        cdef int64_t due = self.retry_at or NO_DEADLINE
        if is_inherited(self) or not needs_watching(self):
            self.watched = False
            refresh(self)
            return None
        if self.retry_at and self.retry_at <= now:
            self.retry_at = 0
            refresh(self)
            return 0.0
        if size(self) > self.min_size:
            due = min(due, now + self.idle_limit)
        for item in self.idle:
            due = min(due, (<Item>item).expires)
            if size(self) > self.min_size:
                due = min(due, (<Item>item).since + self.idle_limit)
        return max(due - now, 0) / 1e9

    @cython.critical_section
    def stop_watching(self):
        self.watched = False
        refresh(self)

    @cython.critical_section
    def count(self, str what, Py_ssize_t n=1):
        """Add n to one of the layer above's figures."""
        self.counts[what] = self.counts.get(what, 0) + n

    @cython.critical_section
    def figures(self):
        """All numbers there are, by name."""
        return {
            **self.counts,
            "min_size": self.min_size,
            "max_size": self.max_size,
            "size": size(self),
            "idle": len(self.idle),
            "making": self.making,
            "waiting": len(self.waiters),
            "requests": self.requests,
        }

    @cython.critical_section
    def snapshot(self):
        """Everything in a slot: pairs of an item and whether it is idle."""
        cdef list items = list(self.items.values())
        idle = set(map(id, self.idle))
        return [(item, id(item) in idle) for item in items]

    def find(self, value):
        """The Item of this thing, or None."""
        item = self.items.get(address(value))
        return item if item is not None and (<Item>item).value is value else None


cdef inline object address(object value):
    return <size_t><PyObject *>value


cdef inline bint is_inherited(Slots slots) noexcept:
    return slots.stamp != atomic_load(&fs.page.stamp)


cdef inline Py_ssize_t size(Slots slots) noexcept:
    return len(slots.items) + slots.making


cdef inline bint needs_watching(Slots slots) noexcept:
    if slots.closed:
        return False
    return slots.retry_at != 0 or (slots.idle_limit < <int64_t>(MOST_SECONDS * 1e9) and size(slots) > slots.min_size)


cdef inline bint is_spare(Slots slots, Item item, int64_t now) noexcept:
    return size(slots) > slots.min_size and item.since + slots.idle_limit <= now


cdef inline void refresh(Slots slots) noexcept:
    slots.slow = (
        slots.closed or len(slots.waiters) > 0 or size(slots) > slots.max_size
        or (not slots.watched and needs_watching(slots))
    )


cdef int wake(Waiter waiter) except -1:
    try:
        lock_release(waiter.lock)
    except RuntimeError:  # it is awake
        pass
    return 0


cdef inline Item lend(Slots slots, Item item):
    item.lent = True
    item.loan += 1
    return item


cdef int place(Slots slots, Item item) except -1:
    cdef Waiter waiter
    if slots.waiters:
        waiter = <Waiter>slots.waiters.pop(0)
        waiter.item = lend(slots, item)
        refresh(slots)
        wake(waiter)
    else:
        item.since = monotonic_ns()
        slots.idle.append(item)
        refresh(slots)
    return 0


# The garbage collector is not shown what an inherited Slots holds: so it takes it all for alive, and finalises nothing.
cdef traverseproc _traverse = (<PyTypeObject *>Slots).tp_traverse

cdef int traverse(PyObject *slots, visitproc visit, void *argument) noexcept:
    if (<Slots>slots).stamp != atomic_load(&fs.page.stamp):
        return 0
    return _traverse(slots, visit, argument)

(<PyTypeObject *>Slots).tp_traverse = traverse


cdef class Checkout:
    """Lends things. The class derived from it says what they are, and deals with all that is unusual."""
    cdef Slots slots
    cdef list inherited
    cdef public bint _looks_first  # nothing is lent without _lend_slowly() having looked at it

    __class_getitem__ = classmethod(GenericAlias)

    def __cinit__(self, *args, **kwargs):
        self.inherited = []

    def getconn(self, timeout=None):
        """Take a connection out of the pool. Give it back with putconn(), or rather use connection().

        timeout: seconds to wait for one, None for the pool's own. PoolTimeout when there was none in time, PoolClosed
        when the pool is closed; what connect() raises, when it was called for this caller and failed.
        """
        cdef Item item
        if timeout is not None:
            self._check_timeout(timeout)
        item = take(self)
        if item is None:
            item = self._lend_slowly(timeout)
        return item.value

    def putconn(self, conn, /):
        """Give a connection back. It is reset; one that is closed or cannot be reset is closed and replaced.

        In a child nothing happens to a connection that was handed out before the fork: it is its parent's.
        ValueError for a connection that is not handed out by this pool.
        """
        cdef Slots slots = self.slots
        cdef Item item = None
        if slots is not None and not is_inherited(slots):
            item = slots.items.get(address(conn))
        if item is None or not end_loan(slots, item, 0):
            self._put_unknown(conn)
        else:
            put(self, slots, item)

    def connection(self, timeout=None):
        """A context manager: `with pool.connection() as conn`. Gives back at its end whatever happens.

        timeout and errors: as getconn(). Nothing is committed, and reset= rolls back: commit what you want to keep.
        """
        cdef Lease lease
        if timeout is not None:
            self._check_timeout(timeout)
        lease = Lease.__new__(Lease)
        lease.owner = self
        lease.timeout = timeout
        return lease

    def _current(self):
        """This generation's Slots. Call it holding nothing: in a child hooks may be due."""
        if self.slots is None or is_inherited(self.slots):
            settle()
            renew(self, self._new_slots())
        return self.slots

    def _known(self):
        """The Slots of whichever generation; None before the first use."""
        return self.slots

    def _is_inherited(self, value):
        """True for a thing that an earlier generation of this process has lent or kept."""
        everyone = self.inherited + [self.slots] if self.slots is not None else self.inherited
        return any((<Slots>each).find(value) is not None for each in everyone if is_inherited(each))

    def __reduce__(self):
        raise TypeError(f"a {type(self).__name__} cannot be pickled or copied: make one in each process, or fork")


@cython.critical_section
cdef int renew(Checkout self, Slots made) except -1:
    if self.slots is None or is_inherited(self.slots):
        if self.slots is not None:
            self.inherited.append(self.slots)
            Py_INCREF(self.slots)  # kept alive for good
        self.slots = made
    return 0


cdef inline Item take(Checkout self):
    cdef Slots slots = self.slots
    cdef Item item = None
    if slots is None or self._looks_first or is_inherited(slots):
        return None
    with cython.critical_section(slots):
        if not slots.slow and len(slots.idle):
            item = <Item>slots.idle[len(slots.idle) - 1]
            if item.expires > monotonic_ns():
                slots.idle.pop()
                slots.requests += 1
                lend(slots, item)
            else:
                item = None
    return item


cdef inline bint end_loan(Slots slots, Item item, uint64_t loan):
    """True for the one caller that gives it back."""
    cdef bint ended = False
    with cython.critical_section(slots):
        if item.lent and (loan == 0 or loan == item.loan):
            item.lent = False
            ended = True
    return ended


cdef inline int put(Checkout self, Slots slots, Item item) except -1:
    cdef bint done = False
    cdef bint closed = False
    cdef int64_t now
    cdef uint64_t loan
    error = None
    if item.has_closed or item.reset is not None:
        try:
            closed = item.has_closed and item.value.closed
            if not closed and item.reset is not None:
                item.reset()
        except BaseException as caught:
            error = caught
    if not closed and error is None:
        now = monotonic_ns()
        with cython.critical_section(slots):
            if not slots.slow and item.expires > now and not is_inherited(slots):
                item.since = now
                slots.idle.append(item)
                done = True
    if not done:
        loan = item.loan
        try:
            self._take_back_slowly(slots, item, closed, error)
        except BaseException:
            rescue(slots, item, loan, closed or error is not None)
            raise
    return 0


@cython.critical_section
cdef int rescue(Slots slots, Item item, uint64_t loan, bint bad) except -1:
    """An exception came from nowhere (a signal): what was just coming back must not be lost on the way."""
    if is_inherited(slots) or item.lent or item.loan != loan or item in slots.idle:
        return 0
    if address(item.value) not in slots.items:
        return 0
    if bad or slots.closed:
        slots.items.pop(address(item.value))
        refresh(slots)
    else:
        place(slots, item)
    return 0


@cython.final
@cython.no_gc
@cython.freelist(16)
cdef class Lease:
    """What connection() returns."""
    cdef Checkout owner
    cdef Slots slots
    cdef Item item
    cdef object timeout
    cdef uint64_t loan

    __class_getitem__ = classmethod(GenericAlias)


cdef object enter(object self):
    cdef Lease lease = <Lease>self
    cdef Item item
    if lease.owner is None:
        raise TypeError("only connection() makes a Lease")
    if lease.item is not None:
        lease.owner._entered_again(is_inherited(lease.slots))
        raise RuntimeError("entered again")
    item = take(lease.owner)
    if item is None:
        item = lease.owner._lend_slowly(lease.timeout)
    lease.slots = lease.owner.slots
    lease.loan = item.loan
    lease.item = item
    return item.value


cdef object leave(object self):
    cdef Lease lease = <Lease>self
    cdef Item item = lease.item
    cdef Slots slots = lease.slots
    if item is not None:
        lease.item = None
        if not is_inherited(slots) and end_loan(slots, item, lease.loan):
            put(lease.owner, slots, item)


add_context_methods(Lease, enter, leave)

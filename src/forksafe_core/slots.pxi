# slots.pxi: the state of what one generation lends: which things there are, which are idle, who waits. Part of
# _checkout.pyx.
#
# Each method of Slots is one step: no Python code, signal handler or finaliser runs in the middle of it, so there is no
# lock that a vanished thread could hold, and a finaliser may use a pool that its own thread is just using. In a child
# every Slots of the parent is inherited: its methods change nothing any more, and what it holds is kept alive for good.


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

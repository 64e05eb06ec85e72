"""Checkout: things that are lent and come back, with a fast way for when nothing is unusual.

What there is lies in Slots, of which each generation has its own (slots.pxi). In a child Checkout finds the parent's
inherited, keeps it alive for good, and asks the layer above for new ones.

Whatever is unusual goes to methods of the class derived from Checkout, whose names begin with an underscore.
"""
cimport cython
from cpython.pycapsule cimport PyCapsule_Import
from cpython.ref cimport PyObject, Py_INCREF
from libc.stdint cimport int64_t, uint64_t

from sys import is_finalizing as sys_is_finalizing
from types import GenericAlias

from forksafe_core._atfork cimport run_due_hooks
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
    int add_context_methods(object type, context_op enter, const char *enter_doc, context_op leave,
                            const char *leave_doc) except -1

cdef const fs_api *fs = <const fs_api *>PyCapsule_Import(FS_API_CAPSULE, 0)
cdef double MOST_SECONDS = 1e9
cdef object is_finalizing = sys_is_finalizing  # kept where no module's end can take it away

include "slots.pxi"


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
            run_due_hooks()
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
    """What connection() returns. Also gives back when it is dropped without its __exit__() having been called."""
    cdef Checkout owner
    cdef Slots slots
    cdef Item item
    cdef object timeout
    cdef uint64_t loan

    __class_getitem__ = classmethod(GenericAlias)

    def __dealloc__(self):
        # Dropped within its block. `with` of CPython 3.14 does that to who is interrupted just before the block begins.
        if self.item is not None and not is_finalizing():
            leave(self)


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


add_context_methods(Lease, enter, b"Check out, waiting as long as the pool's timeout says.", leave, b"Check in.")

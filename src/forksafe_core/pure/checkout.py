"""PoolCore: lends the entries of a pool and takes them back, with a fast way for when nothing is unusual.

What there is lies in Slots, of which each generation has its own (slots.py, which also says how this file is
compiled). In a child PoolCore finds the parent's inherited, keeps it alive for good, and asks the layer above for a
new one. Whatever is unusual goes to methods of the class derived from PoolCore, whose names begin with an underscore.
"""

# mypy: ignore-errors

from sys import is_finalizing
from types import GenericAlias

TYPE_CHECKING = False
if TYPE_CHECKING:  # the compiler takes note of it, the interpreter never runs it
    import cython
try:
    cython.compiled  # noqa: B018
except NameError:
    from forksafe_core.pure import cython_shim as cython
if cython.compiled:
    load_fork_state()  # noqa: F821  # in _slots.pxd
else:
    from forksafe_core.pure.cython_shim import address, is_inherited, keep_alive, run_due_hooks
    from forksafe_core.pure.slots import Entry, Slots

__all__ = ["Checkout", "PoolCore"]


@cython.final
@cython.no_gc
@cython.freelist(16)
@cython.cclass
class Checkout:
    """What connection() returns. Also gives back when it is dropped without its __exit__() having been called."""

    __class_getitem__ = classmethod(GenericAlias)
    _is_finalizing = is_finalizing  # kept where no module's end can take it away

    def __enter__(self):
        return enter(self)

    def __exit__(self, exc_type=None, exc_value=None, traceback=None, /):
        leave(self)

    def __dealloc__(self):
        # Dropped within its block. `with` of CPython 3.14 does that if it is interrupted just before the block begins.
        if self._entry is not None and not self._is_finalizing():
            leave(self)


@cython.cclass
class PoolCore:
    """Lends things. The class derived from it says what they are, and deals with all that is unusual.

    _looks_first: nothing is lent without _lend_slowly() having looked at it.
    """

    __class_getitem__ = classmethod(GenericAlias)

    def getconn(self, timeout=None):
        """Take a connection out of the pool. Give it back with putconn(), or rather use connection().

        timeout: seconds to wait for one, None for the pool's own. PoolTimeout when there was none in time, PoolClosed
        when the pool is closed; what connect() raises, when it was called for this caller and failed.
        """
        if timeout is not None:
            self._check_timeout(timeout)
        entry: Entry = take(self)
        if entry is None:
            entry = self._lend_slowly(timeout)
        return entry.value

    def putconn(self, conn, /):
        """Give a connection back. It is reset; one that is closed or cannot be reset is closed and replaced.

        In a child nothing happens to a connection that was handed out before the fork: it is its parent's.
        ValueError for a connection that is not handed out by this pool.
        """
        slots: Slots = self._slots
        entry: Entry = None
        if slots is not None and not is_inherited(slots):
            entry = slots.entries.get(address(conn))
        if entry is None or not slots.end_loan(entry, 0):
            self._put_unknown(conn)
        else:
            put(self, slots, entry)

    def connection(self, timeout=None):
        """A context manager: `with pool.connection() as conn`. Gives back at its end whatever happens.

        timeout and errors: as getconn(). Nothing is committed, and reset= rolls back: commit what you want to keep.
        """
        if timeout is not None:
            self._check_timeout(timeout)
        checkout: Checkout = Checkout.__new__(Checkout)
        checkout._pool = self
        checkout._timeout = timeout
        return checkout

    def _current(self):
        """This generation's Slots. Call it holding nothing: in a child hooks may be due."""
        if self._slots is None or is_inherited(self._slots):
            run_due_hooks()
            renew(self, self._new_slots())
        return self._slots

    def _known(self):
        """The Slots of whichever generation; None before the first use."""
        return self._slots

    def _is_inherited(self, value):
        """True for a thing that an earlier generation of this process has lent or kept."""
        slots: Slots
        for slots in [*(self._inherited or ()), self._slots]:
            if slots is not None and is_inherited(slots) and slots.find(value) is not None:
                return True
        return False

    def __reduce__(self):
        raise TypeError(f"a {type(self).__name__} cannot be pickled or copied: make one in each process, or fork")


@cython.critical_section
def renew(pool, made):
    slots: Slots = pool._slots
    if slots is None or is_inherited(slots):
        if slots is not None:
            pool._inherited = pool._inherited or []
            pool._inherited.append(slots)
            keep_alive(slots)
        pool._slots = made


def take(pool):
    """The idle entry that is lent next; None if anything is unusual."""
    slots: Slots = pool._slots
    if slots is None or pool._looks_first or is_inherited(slots):
        return None
    return slots.lend_idle()


def put(pool, slots, entry):
    """Reset what comes back; it is idle then, if nothing is unusual."""
    closed: cython.bint = False
    error = None
    if entry.has_closed or entry.reset is not None:
        try:
            closed = entry.has_closed and entry.value.closed
            if not closed and entry.reset is not None:
                entry.reset()
        except BaseException as caught:
            error = caught
    if closed or error is not None or not slots.make_idle(entry):
        loan: cython.ulonglong = entry.loan
        try:
            pool._take_back_slowly(slots, entry, closed, error)
        except BaseException:
            slots.rescue(entry, loan, closed or error is not None)
            raise


def enter(self):
    checkout: Checkout = cython.cast(Checkout, self)
    if checkout._pool is None:
        raise TypeError("only connection() makes a Checkout")
    if checkout._entry is not None:
        checkout._pool._entered_again(is_inherited(checkout._slots))
        raise RuntimeError("entered again")
    entry: Entry = take(checkout._pool)
    if entry is None:
        entry = checkout._pool._lend_slowly(checkout._timeout)
    checkout._slots = checkout._pool._slots
    checkout._loan = entry.loan
    checkout._entry = entry
    return entry.value


def leave(self):
    checkout: Checkout = cython.cast(Checkout, self)
    entry: Entry = checkout._entry
    slots: Slots = checkout._slots
    if entry is not None:
        checkout._entry = None
        if not is_inherited(slots) and slots.end_loan(entry, checkout._loan):
            put(checkout._pool, slots, entry)


if cython.compiled:  # the same methods, but faster to bind
    add_context_methods(  # noqa: F821
        Checkout, enter, b"Check out, waiting as long as the pool's timeout says.", leave, b"Check in."
    )
else:  # what fields in C begin with
    Checkout._pool = Checkout._slots = Checkout._entry = PoolCore._slots = PoolCore._inherited = None
    PoolCore._looks_first = False
    Checkout.__del__ = Checkout.__dealloc__

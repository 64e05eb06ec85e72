"""Slots: the state of a pool in one generation: which things there are, which are idle, which threads wait.

Where there is fork, this file is compiled, with the types of _slots.pxd, as forksafe_core._slots. Elsewhere the
interpreter runs it as it is, with cython_shim.py in place of the compiler.

Guarantees: each method of Slots is one step. Compiled, no Python code, signal handler or finaliser runs in the middle
of it: so there is no lock that a vanished thread could hold, and a finaliser may use a pool that its own thread is just
using. In a child, every Slots of the parent is inherited: its methods change nothing any more, and what it holds is
kept alive for good. Not covered: uncompiled, a signal handler or finaliser may run in the middle of a step.
"""

# mypy: ignore-errors

from _thread import TIMEOUT_MAX

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
    from forksafe_core.pure.cython_shim import (
        NO_DEADLINE,
        Lock,
        address,
        current_stamp,
        deadline_after,
        is_inherited,
        keep_alive,
        monotonic_ns,
    )

__all__ = ["Entry", "Slots", "Waiter"]

MOST_SECONDS = 1e9


@cython.cclass
class Entry:
    """One thing that is lent, and what must be known of it when it comes back.

    reset: called without arguments then, or None. has_closed: its attribute `closed` is asked then.
    extra: for the layer above.
    """

    def __init__(self, value, *, reset=None, has_closed=False, lifetime=MOST_SECONDS, extra=None):
        self.value, self.extra = value, extra
        self.reset = reset
        self.has_closed = has_closed
        self.expires = deadline_after(lifetime)
        self.since = 0  # when it became idle
        self.loan = 0  # how often it was lent
        self.lent = False

    @property
    def expired(self):
        return self.expires <= monotonic_ns()


@cython.final
@cython.cclass
class Waiter:
    """A place in the queue. When wait() ends, `entry` or `error` says what it brought, or neither is there."""

    def __init__(self):
        self.entry = self.error = None
        self.lock = Lock()
        self.lock.acquire()

    def wait(self, seconds: cython.double):
        """True when woken, False when the time was up."""
        return self.lock.acquire(True, min(max(seconds, 0.0), MOST_SECONDS, TIMEOUT_MAX))

    def wake(self):
        """End wait(), now or when it is called. More than once is once."""
        try:
            self.lock.release()
        except RuntimeError:  # it is awake
            pass


@cython.final
@cython.no_gc_clear
@cython.cclass
class Slots:
    """What one process has of the things that are lent: at most max_size of them, each in a slot."""

    def __init__(self, min_size, max_size, *, idle_limit=MOST_SECONDS, closed=False, extra=None):
        self.entries = {}  # by the address of the thing: everything in a slot, wherever it is at the moment
        self.idle = []  # the longest idle one first; the last one is lent
        self.waiters = []
        self.counts = {}
        self.min_size, self.max_size = min_size, max_size
        self.making = 0  # slots taken by things that are being made
        self.idle_limit = int(min(idle_limit, MOST_SECONDS) * 1e9)
        self.retry_at = 0  # when to try again to make as many as min_size; 0: nothing failed
        self.requests, self.watched = 0, False
        self.closed, self.extra = closed, extra
        self.stamp = current_stamp()
        refresh(self)

    def __dealloc__(self):
        if self.stamp != current_stamp() and self.entries is not None:
            keep_alive(self.entries)
            keep_alive(self.idle)

    @property
    def inherited(self):
        """True in a child of the process that made this."""
        return is_inherited(self)

    @cython.critical_section
    def enqueue(self, waiter: Waiter, again: cython.bint = False):
        """Lend the waiter an idle entry, or queue it; again: the last one was no good, so it is next. False: closed."""
        if is_inherited(self) or self.closed:
            return False
        self.requests += not again
        if self.idle and (again or not self.waiters):
            waiter.entry = lend(self.idle.pop())
        else:
            self.waiters.insert(0 if again else len(self.waiters), waiter)
            refresh(self)
        return True

    @cython.critical_section
    def cancel(self, waiter: Waiter):
        """Leave the queue. True when it was still in it."""
        if is_inherited(self) or not take_out_of(self.waiters, waiter):
            return False
        refresh(self)
        return True

    def wake_all(self):
        """Wake all waiters of the parent's queue: a thread that is left asks again."""
        while self.waiters:
            waiter: Waiter = self.waiters.pop()
            waiter.wake()

    @cython.critical_section
    def reserve(self, claim: list):
        """Take a slot for something that the caller is going to make, if one is free and there is a use for it.

        Then there is a new element in claim, which goes to the thread that makes it.
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
    def add(self, entry: Entry):
        """Put what was made into its slot, lent to the first waiter, or idle. False, and the slot is free: closed.

        ValueError, and the slot is still taken, if it is there already.
        """
        if is_inherited(self):
            return False
        if address(entry.value) in self.entries:
            raise ValueError("there already")
        self.making -= 1
        if not self.closed:
            self.entries[address(entry.value)] = entry
            place(self, entry)
        refresh(self)
        return not self.closed

    @cython.critical_section
    def reject(self, error):
        """Making failed: the slot is free. True when the error went to a waiter, the first one."""
        if is_inherited(self):
            return False
        self.making -= 1
        waiter: Waiter = self.waiters.pop(0) if error is not None and self.waiters else None
        refresh(self)
        if waiter is not None:
            waiter.error = error
            waiter.wake()
        return waiter is not None

    @cython.critical_section
    def hand_over(self, entry: Entry):
        """Take back what its holder is done with. False when it is not wanted: closed, or too many."""
        if is_inherited(self):
            return True
        entry.lent = False
        if self.closed or size(self) > self.max_size or address(entry.value) not in self.entries:
            return False
        place(self, entry)
        return True

    @cython.critical_section
    def remove(self, entry: Entry):
        """What was in a slot is gone, and the slot is free."""
        if not is_inherited(self):
            entry.lent = False
            self.entries.pop(address(entry.value), None)
            refresh(self)

    @cython.critical_section
    def take_idle(self, only_stale: cython.bint = False, only_surplus: cython.bint = False):
        """Take the longest idle one out, not to lend it: any, one idle or alive too long, or one of a surplus."""
        now: cython.longlong = monotonic_ns()
        entry: Entry
        if is_inherited(self) or (only_surplus and size(self) <= self.max_size):
            return None
        for entry in self.idle:
            spare = size(self) > self.min_size and entry.since + self.idle_limit <= now
            if not only_stale or spare or entry.expires <= now:
                take_out_of(self.idle, entry)
                return entry
        return None

    @cython.critical_section
    def take_out(self, entry: Entry):
        """Take this one out, not to lend it. False when it is not idle."""
        return not is_inherited(self) and take_out_of(self.idle, entry)

    @cython.critical_section
    def close(self):
        """From now on nothing is lent, and the waiters are told."""
        if is_inherited(self):
            return
        self.closed = True
        waiter: Waiter
        waiters, self.waiters = self.waiters, []
        refresh(self)
        for waiter in waiters:
            waiter.wake()

    @cython.critical_section
    def resize(self, min_size: cython.Py_ssize_t, max_size: cython.Py_ssize_t):
        self.min_size, self.max_size = min_size, max_size
        refresh(self)

    @cython.critical_section
    def retry_in(self, seconds: cython.double):
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
        now: cython.longlong = monotonic_ns()
        due: cython.longlong = self.retry_at or NO_DEADLINE
        entry: Entry
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
        for entry in self.idle:
            due = min(due, entry.expires)
            if size(self) > self.min_size:
                due = min(due, entry.since + self.idle_limit)
        return max(due - now, 0) / 1e9

    @cython.critical_section
    def stop_watching(self):
        self.watched = False
        refresh(self)

    @cython.critical_section
    def count(self, what: str, n: cython.Py_ssize_t = 1):
        """Add n to one of the layer above's figures."""
        self.counts[what] = self.counts.get(what, 0) + n

    @cython.critical_section
    def figures(self):
        """All numbers there are, by the names of PoolStats."""
        return {
            **self.counts,
            "pool_min": self.min_size,
            "pool_max": self.max_size,
            "pool_size": size(self),
            "pool_available": len(self.idle),
            "requests_waiting": len(self.waiters),
            "requests_num": self.requests,
        }

    @cython.critical_section
    def snapshot(self):
        """Everything in a slot: pairs of an entry and whether it is idle."""
        idle = set(map(id, self.idle))
        return [(entry, id(entry) in idle) for entry in self.entries.values()]

    def find(self, value):
        """The Entry of this thing, or None."""
        entry: Entry = self.entries.get(address(value))
        return entry if entry is not None and entry.value is value else None

    @cython.critical_section
    def lend_idle(self):
        """Lend the last idle one; None if anything is unusual."""
        if self.slow or not self.idle:
            return None
        entry: Entry = cython.cast(Entry, self.idle[len(self.idle) - 1])
        if entry.expires <= monotonic_ns():
            return None
        self.idle.pop()
        self.requests += 1
        return lend(entry)

    @cython.critical_section
    def end_loan(self, entry, loan):
        """True for the one caller that gives it back. loan: which one, 0 for the last."""
        if not entry.lent or (loan != 0 and loan != entry.loan):
            return False
        entry.lent = False
        return True

    @cython.critical_section
    def make_idle(self, entry):
        """What came back is idle from now on. False if anything is unusual."""
        now: cython.longlong = monotonic_ns()
        if self.slow or entry.expires <= now or is_inherited(self):
            return False
        entry.since = now
        self.idle.append(entry)
        return True

    @cython.critical_section
    def rescue(self, entry, loan, bad):
        """A signal handler raised while this came back: it must not be lost."""
        if is_inherited(self) or entry.lent or entry.loan != loan or entry in self.idle:
            return 0
        if bad or self.closed:
            self.entries.pop(address(entry.value), None)
            refresh(self)
        elif address(entry.value) in self.entries:
            place(self, entry)
        return 0


def size(slots):
    return len(slots.entries) + slots.making


def needs_watching(slots):
    surplus = slots.idle_limit < MOST_SECONDS * 1e9 and size(slots) > slots.min_size
    return not slots.closed and (slots.retry_at != 0 or surplus)


def refresh(slots):
    """Note whether something is unusual."""
    unwatched = not slots.watched and needs_watching(slots)
    slots.slow = slots.closed or len(slots.waiters) > 0 or size(slots) > slots.max_size or unwatched


def take_out_of(things, wanted):
    """False when it is not in the list."""
    for i in range(len(things)):
        if things[i] is wanted:
            things.pop(i)
            return True
    return False


def lend(entry):
    entry.lent = True
    entry.loan += 1
    return entry


def place(slots, entry):
    """Lend it to the first waiter, else it is idle."""
    waiter: Waiter = slots.waiters.pop(0) if slots.waiters else None
    if waiter is None:
        entry.since = monotonic_ns()
        slots.idle.append(entry)
    refresh(slots)
    if waiter is not None:
        waiter.entry = lend(entry)
        waiter.wake()


if cython.compiled:
    hide_what_is_inherited()  # noqa: F821

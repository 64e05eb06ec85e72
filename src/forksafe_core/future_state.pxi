# future_state.pxi: FutureState, one future. Part of _futures.pyx.


cdef inline bint is_done(uint64_t word) noexcept nogil:
    return (word & STATES) >= CANCELLED


cdef class FutureState:
    """FutureState()\n--\n
    The state of a Future. The class derived from it makes its condition and its errors.
    """
    cdef uint64_t word    # atomic
    cdef uint64_t stamp   # of the process that made it, or has settled it
    cdef uint64_t runner  # the token of the thread that runs it
    cdef object fn        # called with args and kwargs, by WorkQueue
    cdef object args
    cdef object kwargs
    cdef public object _result
    cdef public object _exception
    cdef object condition
    cdef list waiters
    cdef list callbacks
    cdef object __weakref__

    __class_getitem__ = classmethod(GenericAlias)

    def __cinit__(self, *args, **kwargs):
        self.stamp = atomic_load(&fs.page.stamp)

    def __init__(self):
        pass  # the fields that concurrent.futures.Future sets exist already

    def __dealloc__(self):
        # Callbacks and arguments of the parent's, and what they refer to, are not finalised in a child.
        if self.stamp != atomic_load(&fs.page.stamp) and not is_done(self.word):
            keep(self.fn)
            keep(self.args)
            keep(self.kwargs)
            keep(self.callbacks)
            keep(self.waiters)

    @property
    def _state(self):
        return NAMES[look(self) & STATES]

    @property
    def _condition(self):
        look(self)
        if self.condition is None:
            share(self, self._new_condition())
        return self.condition

    @property
    def _waiters(self):
        """The waiters of wait() and as_completed(), which hold the condition when they ask."""
        look(self)
        if self.waiters is None:
            self.waiters = []
        return self.waiters

    @property
    def _done_callbacks(self):
        look(self)
        return self.callbacks or []

    def cancelled(self):
        """True if it was cancelled."""
        return (look(self) & STATES) in (CANCELLED, NOTIFIED)

    def running(self):
        """True while it is being executed."""
        return (look(self) & STATES) == RUNNING

    def done(self):
        """True if it was cancelled or has finished. In a child also if the thread that ran it vanished."""
        return is_done(look(self))

    def result(self, timeout=None):
        """What the call returned; raises what it raised.

        timeout: seconds to wait, None for no limit; then TimeoutError. CancelledError if it was cancelled,
        InheritedFutureError in a child if it was not done at the fork.
        """
        cdef uint64_t state = wait_until_done(self, timeout) & STATES
        if state != FINISHED:
            self._raise_unfinished(state >= CANCELLED)
        if self._exception is not None:
            raise self._exception
        return self._result

    def exception(self, timeout=None):
        """What the call raised, None if it returned. Waits, and fails, as result() does."""
        cdef uint64_t state = wait_until_done(self, timeout) & STATES
        if state != FINISHED:
            self._raise_unfinished(state >= CANCELLED)
        return self._exception

    def cancel(self):
        """Cancel it if it has not begun. True if it is cancelled now."""
        cdef uint64_t was
        look(self)
        was = leave_pending(self, CANCELLED)
        if was & SHARED:
            was = self._cancel_shared()
        if was == PENDING:
            run_callbacks(self)
        return was in (PENDING, CANCELLED, NOTIFIED)

    def set_running_or_notify_cancel(self):
        """For executors: True when it is to be run now, False when it was cancelled."""
        return begin(self)

    def set_result(self, result):
        """For executors: what the call returned."""
        end(self, result, None)

    def set_exception(self, exception):
        """For executors: what the call raised."""
        end(self, None, exception)

    def add_done_callback(self, fn):
        """Call fn with the future when it is done, or at once. A child does not call what was added before the fork."""
        look(self)
        if not append_callback(self, fn):
            self._call(fn)
        elif getattr(fn, "__module__", None) == "asyncio.futures":
            self._remember()  # a loop that goes on in the child waits for this one

    # For the derived class, which holds the condition when it calls these.

    def _leave_pending(self, bint by_cancel):
        """The state it was in. 0: that was PENDING, and it is cancelled or runs now."""
        return leave_pending(self, CANCELLED if by_cancel else RUNNING, True)

    def _notified(self):
        atomic_fetch_or(word_of(&self.word), NOTIFIED)

    def _complete(self, result, exception):
        """End it. False if it was done already."""
        return not is_done(complete(self, result, exception, True))

    def _take_callbacks(self):
        return take_callbacks(self)

    def _look(self):
        """In a child: settle it, as any use of it does."""
        look(self)


cdef inline void keep(object value) noexcept:
    if value is not None:
        Py_INCREF(value)


cdef inline uint64_t look(FutureState self) except? 99:
    """The word, after the future has been settled if this is a child of the process it was made in."""
    if self.stamp != atomic_load(&fs.page.stamp):
        settle_future(self)
    return atomic_load(word_of(&self.word))


cdef int settle_future(FutureState self) except -1:
    cdef uint64_t now, word = atomic_load(word_of(&self.word))
    cdef int gone
    cdef list chains
    run_due_hooks()
    now = atomic_load(&fs.page.stamp)
    if self.stamp == now:
        return 0
    if is_done(word):
        self.stamp = now
        return 0
    gone = fs.gone(self.runner) if (word & STATES) == RUNNING else 1
    if gone < 0:
        return 0  # a fork found late, by another thread: no thread counts as gone yet
    chains = self._callbacks_here(list(self.callbacks)) if self.callbacks else None
    if forget_parent(self, now, chains):
        if not gone:
            self.waiters = None  # the parent's: this thread, which runs it, is not among them
        else:
            self._renew_waiters()
            end(self, None, self._inherited())
    return 0


@cython.critical_section
cdef bint forget_parent(FutureState self, uint64_t now, list callbacks) except -1:
    """Keep these callbacks, no others. True for the first caller."""
    if self.stamp == now:
        return False
    keep(self.callbacks)
    keep(self.fn)
    keep(self.args)
    keep(self.kwargs)
    self.fn = self.args = self.kwargs = None
    self.callbacks = callbacks
    if not callbacks:
        atomic_fetch_and(word_of(&self.word), ~<uint64_t>CALLBACKS)
    self.stamp = now
    return True


@cython.critical_section
cdef int share(FutureState self, object condition) except -1:
    if self.condition is None:
        self.condition = condition
        atomic_fetch_or(word_of(&self.word), SHARED)
    return 0


@cython.critical_section
cdef bint append_callback(FutureState self, object fn) except -1:
    if is_done(atomic_load(word_of(&self.word))):
        return False
    if self.callbacks is None:
        self.callbacks = []
    self.callbacks.append(fn)
    atomic_fetch_or(word_of(&self.word), CALLBACKS)
    return True


@cython.critical_section
cdef list take_callbacks(FutureState self):
    cdef list callbacks = self.callbacks
    self.callbacks = None
    return callbacks or []


cdef inline int run_callbacks(FutureState self) except -1:
    if atomic_load(word_of(&self.word)) & CALLBACKS:
        self._invoke_callbacks()
    return 0


cdef void change_state(FutureState self, uint64_t state) noexcept nogil:
    cdef fs_word *word = word_of(&self.word)
    cdef uint64_t was = atomic_load(word), flags = SHARED | CALLBACKS
    if not is_done(state):
        flags |= SLEEPERS
    while not atomic_compare_exchange_strong(word, &was, (was & flags) | state):
        pass
    if was & SLEEPERS & ~flags:
        unpark(word, INT32_MAX, fs)


@cython.critical_section
cdef uint64_t leave_pending(FutureState self, uint64_t state, bint holding=False) except? 99:
    """The state it was in; with SHARED, and nothing changed, when the caller must hold the condition."""
    cdef uint64_t was = atomic_load(word_of(&self.word))
    if was & SHARED and not holding:
        return was
    if (was & STATES) == PENDING:
        change_state(self, state)
    return was & STATES


cdef bint begin(FutureState self) except -1:
    cdef uint64_t was
    look(self)
    self.runner = lw_get_self()
    was = leave_pending(self, RUNNING)
    if was & SHARED:
        was = self._begin_shared()
    if was == PENDING:
        return True
    if was == CANCELLED:
        atomic_fetch_or(word_of(&self.word), NOTIFIED)
        return False
    self._raise_begun()


@cython.critical_section
cdef uint64_t complete(FutureState self, object result, object exception, bint holding):
    """The word as it was. Changes nothing if it was done, or with SHARED if the caller must hold the condition."""
    cdef uint64_t was = atomic_load(word_of(&self.word))
    if not is_done(was) and (holding or not was & SHARED):
        self._result = result
        self._exception = exception
        change_state(self, FINISHED)
    return was


cdef int end(FutureState self, object result, object exception) except -1:
    cdef uint64_t was
    look(self)
    was = complete(self, result, exception, False)
    if is_done(was):
        self._raise_done()
    if was & SHARED:
        self._finish_shared(result, exception)
    return run_callbacks(self)


cdef uint64_t wait_until_done(FutureState self, object timeout) except? 99:
    """The word when it is done, or when the time was up."""
    cdef uint64_t word = look(self)
    cdef int64_t deadline = NO_DEADLINE
    cdef int how
    if is_done(word):
        return word
    if timeout is not None:
        deadline = deadline_after(max(<double?>float(timeout), 0.0))
    while not is_done(word) and (deadline == NO_DEADLINE or monotonic_ns() < deadline):
        if not word & SLEEPERS:
            if not atomic_compare_exchange_strong(word_of(&self.word), &word, word | SLEEPERS):
                continue
            word |= SLEEPERS
        with nogil:
            how = park(word_of(&self.word), word, deadline, fs)
        if how == PARK_INTERRUPTED:
            Py_MakePendingCalls()  # a handler may raise, or fork
        word = look(self)
    return word

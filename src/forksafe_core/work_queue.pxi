# work_queue.pxi: WorkQueue, the queue between an executor and its threads in one process. Part of _futures.pyx.
#
# A thread that finds nothing to do counts itself as idle, looks once more, and sleeps until it gets a permit. submit()
# takes one idle thread out of that count and gives one permit for it, so no thread is woken twice and no work waits
# while a thread sleeps. A new thread is asked for only while there is more work than threads.
#
# A WorkQueue belongs to one process. In a child the parent's is inherited: submit() refuses, and the thread that still
# runs something for it learns that when it has ended.


@cython.final
cdef class WorkQueue:
    """start_thread: called with a submitted future when one more thread is needed, which counts from then on."""
    cdef object items
    cdef object future_type
    cdef object start_thread
    cdef uint64_t limit
    cdef uint64_t stamp
    cdef uint64_t unfinished  # submitted and not ended. This and the rest are atomic
    cdef uint64_t threads
    cdef uint64_t running     # threads that run something
    cdef uint64_t idle
    cdef uint64_t permits     # a semaphore's word
    cdef uint64_t gate        # 1: nothing is begun
    cdef uint64_t closed

    def __init__(self, future_type, limit, start_thread):
        self.items = deque()
        self.future_type = future_type
        self.limit = limit
        self.start_thread = start_thread
        self.stamp = atomic_load(&fs.page.stamp)

    def __dealloc__(self):
        if self.stamp != atomic_load(&fs.page.stamp):
            keep(self.items)  # inherited: kept alive for good

    @property
    def inherited(self):
        return self.stamp != atomic_load(&fs.page.stamp)

    @property
    def closed(self):
        return atomic_load(word_of(&self.closed)) != 0

    @property
    def threads(self):
        return atomic_load(word_of(&self.threads))

    @property
    def running(self):
        return atomic_load(word_of(&self.running))

    def qsize(self):
        """How much was submitted and has not begun."""
        return len(self.items)

    def submit(self, fn, args, kwargs):
        """A future for fn(*args, **kwargs). None when this is closed, or inherited."""
        cdef FutureState future
        if self.stamp != atomic_load(&fs.page.stamp) or atomic_load(word_of(&self.closed)):
            return None
        future = <FutureState>(<PyTypeObject *>self.future_type).tp_new(<PyTypeObject *>self.future_type, (), NULL)
        future.fn = fn
        future.args = args
        future.kwargs = kwargs
        return future if put(self, future) else None

    def run_next(self):
        """Wait for something to run, and run it: True. None when this is closed and there is no more.

        The future, when running it has forked and this is the child: the queue is the parent's then.
        """
        cdef FutureState future = take(self)
        if future is None:
            return None
        try:
            execute(self, future)
        finally:
            stop_running(self)
        return True if self.stamp == atomic_load(&fs.page.stamp) else future

    def enter(self):
        """Count this thread as running, as soon as the queue is not paused."""
        enter(self)

    def leave(self):
        """Count this thread as running no more."""
        stop_running(self)

    def pause(self):
        """Let nothing begin until resume()."""
        atomic_store(word_of(&self.gate), 1)

    def resume(self):
        atomic_store(word_of(&self.gate), 0)
        unpark(word_of(&self.gate), INT32_MAX, fs)

    def wait_idle(self, uint64_t but, double seconds):
        """While it is paused: wait until no more than `but` threads run something. False when the time was up."""
        cdef int64_t deadline = deadline_after(seconds)
        cdef uint64_t running
        while True:
            running = atomic_load(word_of(&self.running))
            if running <= but:
                return True
            if monotonic_ns() >= deadline:
                return False
            with nogil:
                if park(word_of(&self.running), running, deadline, fs) != PARK_INTERRUPTED:
                    continue
            Py_MakePendingCalls()

    def close(self):
        """Let nothing more be submitted, and have the threads end when all is done."""
        atomic_store(word_of(&self.closed), 1)
        while take_idle(self):
            sw_give(word_of(&self.permits), 1, SW_MAX_VALUE)

    def drain(self):
        """Take out everything that has not begun."""
        rest = []
        while len(self.items):
            try:
                rest.append(self.items.popleft())
                atomic_fetch_sub(word_of(&self.unfinished), 1)
            except IndexError:
                pass
        return rest

    def forget_thread(self):
        """A thread that was asked for has not started."""
        atomic_fetch_sub(word_of(&self.threads), 1)

    def withdraw(self, FutureState future):
        """Take a future out. False when it has begun."""
        try:
            self.items.remove(future)
        except ValueError:
            return False
        atomic_fetch_sub(word_of(&self.unfinished), 1)
        return True


cdef bint put(WorkQueue self, FutureState future) except -1:
    cdef uint64_t threads, unfinished
    self.items.append(future)
    unfinished = atomic_fetch_add(word_of(&self.unfinished), 1) + 1
    if atomic_load(word_of(&self.closed)) and self.withdraw(future):
        return False
    threads = atomic_load(word_of(&self.threads))
    while threads < self.limit and threads < unfinished:
        if atomic_compare_exchange_strong(word_of(&self.threads), &threads, threads + 1):
            self.start_thread(future)
            return True
    if take_idle(self):
        sw_give(word_of(&self.permits), 1, SW_MAX_VALUE)
    return True


cdef FutureState take(WorkQueue self):
    """Wait for what to run next, and count this thread as running. None when closed and there is no more."""
    while True:
        enter(self)
        if len(self.items):
            try:
                return self.items.popleft()
            except IndexError:  # without a GIL others may be quicker
                pass
        stop_running(self)
        if atomic_load(word_of(&self.closed)):
            return None
        atomic_fetch_add(word_of(&self.idle), 1)
        if not (len(self.items) or atomic_load(word_of(&self.closed))) or not take_idle(self):
            with nogil:
                while sw_wait(word_of(&self.permits), NO_DEADLINE) != LW_TAKEN:
                    pass  # a signal, which is the main thread's to handle


cdef inline bint take_idle(WorkQueue self) noexcept nogil:
    cdef uint64_t idle = atomic_load(word_of(&self.idle))
    while idle:
        if atomic_compare_exchange_strong(word_of(&self.idle), &idle, idle - 1):
            return True
    return False


cdef inline void enter(WorkQueue self) noexcept:
    while True:
        while atomic_load(word_of(&self.gate)):
            with nogil:
                park(word_of(&self.gate), 1, NO_DEADLINE, fs)
        atomic_fetch_add(word_of(&self.running), 1)
        if not atomic_load(word_of(&self.gate)):
            return
        stop_running(self)


cdef inline void stop_running(WorkQueue self) noexcept:
    atomic_fetch_sub(word_of(&self.running), 1)
    if atomic_load(word_of(&self.gate)):
        unpark(word_of(&self.running), INT32_MAX, fs)


cdef int execute(WorkQueue self, FutureState future) except -1:
    cdef object result = None, error = None, fn, args, kwargs
    if begin(future):
        fn, args, kwargs = future.fn, future.args, future.kwargs
        future.fn = future.args = future.kwargs = None
        try:
            result = PyObject_Call(fn, args, <PyObject *>kwargs)
        except BaseException as raised:
            error = raised
        fn = args = kwargs = None
        atomic_fetch_sub(word_of(&self.unfinished), 1)  # before it is done: then a submit() needs no new thread
        end(future, result, error)
    else:
        atomic_fetch_sub(word_of(&self.unfinished), 1)
    return 0

"""FutureState, what concurrent.futures.Future does; and WorkQueue, the queue between an executor and its threads.

Guarantees: one word holds the state of a future, and whether a thread sleeps until it ends, has its condition or has
added callbacks. Ending a future that nothing waits for changes that word and makes no lock and no condition. Each
method is one step: no other Python code runs in the middle of it. What is unusual is done by methods of the derived
class, which have names with an underscore.

Why that survives fork: nothing is done for a future at the fork. In a child, one that was not done is settled when it
is next looked at: it has failed, unless the thread that runs it is the one that forked. Callbacks and waiters of the
parent are forgotten, and kept alive.
"""
cimport cython
from cpython.pycapsule cimport PyCapsule_Import
from cpython.ref cimport PyObject, Py_INCREF
from libc.stdint cimport INT32_MAX, int64_t, uint64_t

from collections import deque
from types import GenericAlias

from forksafe_core._atfork cimport run_due_hooks
from forksafe_core.fork_state cimport FS_API_CAPSULE, atomic_load, atomic_store, fs_api, fs_word
from forksafe_core.lock_word cimport *

cdef extern from "Python.h":
    int Py_MakePendingCalls() except -1
    object PyObject_Call(object callable, object args, PyObject *kwargs)
    ctypedef struct PyTypeObject:
        object (*tp_new)(PyTypeObject *cls, object args, PyObject *kwargs)

cdef extern from "semaphore_word.h" nogil:
    uint64_t SW_MAX_VALUE
    int sw_wait(fs_word *word, int64_t deadline)
    bint sw_give(fs_word *word, uint64_t permits, uint64_t limit)
    int PARK_WOKEN, PARK_TIMED_OUT, PARK_INTERRUPTED
    int park(fs_word *word, uint64_t expected, int64_t deadline, const fs_api *fs)
    void unpark(fs_word *word, int how_many, const fs_api *fs)
    int64_t monotonic_ns()
    bint atomic_compare_exchange_strong(fs_word *word, uint64_t *expected, uint64_t value)
    uint64_t atomic_exchange(fs_word *word, uint64_t value)
    uint64_t atomic_fetch_add(fs_word *word, uint64_t value)
    uint64_t atomic_fetch_sub(fs_word *word, uint64_t value)
    uint64_t atomic_fetch_or(fs_word *word, uint64_t value)
    uint64_t atomic_fetch_and(fs_word *word, uint64_t value)

lw_set_api(<const fs_api *>PyCapsule_Import(FS_API_CAPSULE, 0))

cdef enum:
    PENDING, RUNNING, CANCELLED, NOTIFIED, FINISHED  # from CANCELLED on it is done
    STATES = 7
    SHARED = 8      # its condition has been given out: to end this future, hold it and notify
    CALLBACKS = 16
    SLEEPERS = 32   # a thread is parked on the word

cdef tuple NAMES = ("PENDING", "RUNNING", "CANCELLED", "CANCELLED_AND_NOTIFIED", "FINISHED")

include "future_state.pxi"
include "work_queue.pxi"

# What C knows of pure/slots.py, which is compiled as forksafe_core._slots: its fields, and its functions for other
# modules. The functions in C here are in pure/cython_shim.py for where nothing is compiled.
from cpython.ref cimport PyObject, Py_INCREF
from libc.stdint cimport int64_t, uint64_t

from forksafe_core._locks cimport Lock
from forksafe_core.fork_state cimport FS_API_CAPSULE, atomic_load, fs_api

cdef extern from "parking.h" nogil:
    int64_t NO_DEADLINE
    int64_t monotonic_ns()
    int64_t deadline_after(double seconds)

cdef extern from "Python.h":
    void *PyCapsule_Import(const char *name, int no_block) except NULL
    ctypedef int (*visitproc)(PyObject *, void *) noexcept
    ctypedef int (*traverseproc)(PyObject *, visitproc visit, void *) noexcept
    ctypedef struct PyTypeObject:
        traverseproc tp_traverse

cdef extern from *:
    """
    static const fs_api *fs;
    static traverseproc traverse_all;
    """
    const fs_api *fs
    traverseproc traverse_all

cdef double MOST_SECONDS


cdef class Entry:
    cdef readonly object value
    cdef public object reset, extra
    cdef public bint has_closed
    cdef int64_t expires, since
    cdef uint64_t loan
    cdef bint lent


cdef class Waiter:
    cdef public Entry entry
    cdef public object error
    cdef Lock lock

    cpdef wake(self)


cdef class Slots:
    cdef dict entries, counts
    cdef list idle, waiters
    cdef Py_ssize_t min_size, max_size
    cdef readonly Py_ssize_t making
    cdef int64_t idle_limit, retry_at
    cdef uint64_t stamp, requests
    cdef bint slow, watched
    cdef readonly bint closed
    cdef readonly object extra

    cdef Entry lend_idle(self)
    cdef bint end_loan(self, Entry entry, uint64_t loan) noexcept
    cdef bint make_idle(self, Entry entry) except -1
    cdef int rescue(self, Entry entry, uint64_t loan, bint bad) except -1


cdef Py_ssize_t size(Slots slots) noexcept
cdef bint needs_watching(Slots slots) noexcept
cdef void refresh(Slots slots) noexcept
cdef bint take_out_of(list things, object wanted) except -1
cdef Entry lend(Entry entry)
cdef int place(Slots slots, Entry entry) except -1


cdef inline object address(object value):
    return <size_t><PyObject *>value


cdef inline uint64_t current_stamp() noexcept:
    return atomic_load(&fs.page.stamp)


cdef inline bint is_inherited(Slots slots) noexcept:
    return slots.stamp != current_stamp()


cdef inline int load_fork_state() except -1:
    global fs
    fs = <const fs_api *>PyCapsule_Import(FS_API_CAPSULE, 0)
    return 0


cdef inline int keep_alive(object value) except -1:
    Py_INCREF(value)
    return 0


cdef inline int traverse(PyObject *slots, visitproc visit, void *argument) noexcept:
    if (<Slots>slots).stamp != current_stamp():
        return 0
    return traverse_all(slots, visit, argument)


cdef inline int hide_what_is_inherited() except -1:
    """The garbage collector is not shown what an inherited Slots holds: so it takes it for alive, and finalises none."""
    global traverse_all
    traverse_all = (<PyTypeObject *>Slots).tp_traverse
    (<PyTypeObject *>Slots).tp_traverse = traverse
    return 0

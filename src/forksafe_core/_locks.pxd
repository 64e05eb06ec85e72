# For other Cython modules: `from forksafe_core._locks cimport Lock, lock_acquire, lock_release`.
from libc.stdint cimport uint64_t


cdef class Lock:
    cdef uint64_t word  # atomic: use the functions
    cdef object __weakref__


cdef class RLock:
    cdef uint64_t word
    cdef Py_ssize_t count
    cdef Py_ssize_t releases_to_ignore  # by the thread that forked, see RLock._at_fork_reinit
    cdef object __weakref__


cdef int lock_acquire(Lock lock) except -1
cdef int lock_release(Lock lock) except -1
cdef int rlock_acquire(RLock lock) except -1
cdef int rlock_release(RLock lock) except -1

# For other Cython modules: `from forksafe_core._semaphores cimport Semaphore, BoundedSemaphore`.
from libc.stdint cimport uint64_t


cdef class Semaphore:
    cdef uint64_t word  # atomic: use the methods
    cdef uint64_t stamp
    cdef uint64_t initial
    cdef uint64_t limit
    cdef void *holders
    cdef object __weakref__


cdef class BoundedSemaphore(Semaphore):
    pass

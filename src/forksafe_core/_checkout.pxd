# What C knows of pure/checkout.py, which is compiled as forksafe_core._checkout.
from libc.stdint cimport uint64_t

from forksafe_core._atfork cimport run_due_hooks
from forksafe_core._slots cimport Entry, Slots, address, is_inherited, keep_alive, load_fork_state

cdef extern from "context_methods.h":
    ctypedef object (*context_op)(object)
    int add_context_methods(object type, context_op enter, const char *enter_doc, context_op leave,
                            const char *leave_doc) except -1


cdef class PoolCore:
    cdef Slots _slots
    cdef list _inherited
    cdef public bint _looks_first


cdef class Checkout:
    cdef PoolCore _pool
    cdef Slots _slots
    cdef Entry _entry
    cdef object _timeout
    cdef uint64_t _loan


cdef Entry take(PoolCore pool)
cdef int put(PoolCore pool, Slots slots, Entry entry) except -1
cdef int renew(PoolCore pool, Slots made) except -1
cdef object enter(object self)
cdef object leave(object self)

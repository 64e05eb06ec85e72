"""PerProcess: a value that each process makes for itself, at first use.

Guarantees
  - At most one thread runs the maker at a time; the others wait and get its value. What the maker raises reaches the
    caller that ran it, and the next call runs the maker again.
  - A child never gets its parent's value. The inherited value is kept alive for good: it is not finalised, and the
    garbage collector does not find it. The hooks that are due in the child run before the maker does.
  - Where there is a value, a call compares two numbers and takes no lock.

Why that survives fork: the value carries the stamp of the process that made it, and a child has another stamp,
whichever way the fork was made. The makers' lock is free in a child if its holder vanished.

Not covered: a maker that forks. Its child has no claim to what the maker began in the parent: when the maker returns
there, its caller gets a RuntimeError, and what it returned is kept alive. Makers that need each other's values from
two threads deadlock, as locks do.
"""
cimport cython
from cpython.pycapsule cimport PyCapsule_Import
from cpython.ref cimport PyObject, Py_INCREF
from libc.stdint cimport UINT64_MAX, uint64_t

import sys
from types import GenericAlias

from forksafe_core._atfork cimport run_due_hooks
from forksafe_core._locks cimport RLock, rlock_acquire, rlock_release
from forksafe_core.fork_state cimport FS_API_CAPSULE, atomic_load, atomic_store, fs_api, fs_word

cdef extern from "Python.h":
    ctypedef int (*visitproc)(PyObject *, void *) noexcept
    ctypedef int (*traverseproc)(PyObject *, visitproc, void *) noexcept
    ctypedef struct PyTypeObject:
        traverseproc tp_traverse

cdef const fs_api *fs = <const fs_api *>PyCapsule_Import(FS_API_CAPSULE, 0)
cdef uint64_t NEVER = UINT64_MAX  # no process has this stamp


@cython.final
@cython.no_gc_clear
cdef class PerProcess:
    """PerProcess(make, /)\n--\n
    A value of each process: call it for this process's, which make() makes at first use.

    make: called without arguments, by one thread at a time. In a child the parent's value is kept alive but out of
    reach, and make() is called again. It pickles if make does; another process then makes its own value.
    """
    cdef uint64_t stamp  # atomic: of the process that made the value; NEVER if none has
    cdef object value    # written once in a process, before the stamp
    cdef object maker
    cdef RLock lock
    cdef uint64_t making_thread, making_stamp  # the call of the maker under way; the lock guards them
    cdef object __weakref__

    __class_getitem__ = classmethod(GenericAlias)

    def __cinit__(self, make, /):
        if not callable(make):
            raise TypeError(
                f"PerProcess(make) takes a callable without arguments, not {type(make).__name__!r}: "
                "pass the function that makes the value, not the value"
            )
        self.stamp = NEVER
        self.maker = make
        self.lock = RLock.__new__(RLock)

    def __dealloc__(self):
        if is_inherited(self):
            Py_INCREF(self.value)  # kept alive for good

    def __call__(self):
        """This process's value; the first call makes it. RuntimeError when the maker asks for its own value."""
        return self.value if has_value(self) else make(self)

    def peek(self):
        """This process's value if it has been made, else None."""
        return self.value if has_value(self) else None

    @property
    def made(self):
        """True when this process has a value."""
        return has_value(self)

    def __repr__(self):
        return f"<forksafe.PerProcess of {name_of(self)}, {'made' if has_value(self) else 'not made'}>"

    def __reduce__(self):
        # By name where it replaces its maker, as a decorator does: pickle would look for the maker and find this.
        found = sys.modules.get(getattr(self.maker, "__module__", None))
        for part in name_of(self).split("."):
            found = getattr(found, part, None)
        return name_of(self) if found is self else (PerProcess, (self.maker,))


cdef inline bint has_value(PerProcess self) noexcept:
    return atomic_load(<fs_word *>&self.stamp) == atomic_load(&fs.page.stamp)


cdef inline bint is_inherited(PerProcess self) noexcept:
    return not has_value(self) and atomic_load(<fs_word *>&self.stamp) != NEVER


cdef str name_of(PerProcess self):
    return getattr(self.maker, "__qualname__", None) or repr(self.maker)


cdef object make(PerProcess self):
    rlock_acquire(self.lock)  # runs the hooks that are due before it takes the lock
    try:
        run_due_hooks()
        return self.value if has_value(self) else make_locked(self, fs.token(), atomic_load(&fs.page.stamp))
    finally:
        rlock_release(self.lock)


cdef object make_locked(PerProcess self, uint64_t thread, uint64_t stamp):
    cdef uint64_t outer_thread = self.making_thread, outer_stamp = self.making_stamp
    if outer_thread == thread and outer_stamp == stamp:
        raise RuntimeError(f"{name_of(self)} asks for the value of the PerProcess that is calling it: make that value "
                           "without it")
    self.making_thread, self.making_stamp = thread, stamp
    try:
        value = self.maker()
    finally:
        self.making_thread, self.making_stamp = outer_thread, outer_stamp
    run_due_hooks()
    if stamp != atomic_load(&fs.page.stamp):
        Py_INCREF(value)
        raise RuntimeError(f"{name_of(self)} forked while it made a value for a PerProcess, and this is the child: "
                           "what it returned is the parent's. Call the PerProcess again for the child's value")
    if is_inherited(self):
        Py_INCREF(self.value)
    self.value = value
    atomic_store(<fs_word *>&self.stamp, stamp)
    return value


# The garbage collector clears, and so frees, what only garbage refers to. So it must not find inherited values.
cdef traverseproc traverse_own = (<PyTypeObject *>PerProcess).tp_traverse


cdef int traverse(PyObject *self, visitproc visit, void *arg) noexcept:
    if is_inherited(<PerProcess>self):
        return visit(<PyObject *>(<PerProcess>self).maker, arg)
    return traverse_own(self, visit, arg)


(<PyTypeObject *>PerProcess).tp_traverse = traverse

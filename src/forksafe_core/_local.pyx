"""local: threading.local that is empty in a child, for the thread that forked too.

Guarantees: a connection that a thread keeps here is never shared with its parent. The values that a child inherits are
kept alive for good: no finaliser of theirs runs there.

Why that survives fork: at a fork CPython frees the thread-local dictionaries of the threads that vanished, before any
hook could run. Therefore the values lie in the object, by thread token. The interpreter frees a sentinel, which drops
the values only in the process that they belong to.
"""
cimport cython
from cpython.pycapsule cimport PyCapsule_Import
from cpython.ref cimport PyObject, Py_INCREF
from libc.stdint cimport uint64_t

from _thread import _local as _StandardLocal
from _weakrefset import WeakSet

from forksafe_core._atfork cimport run_due_hooks
from forksafe_core.fork_state cimport FS_API_CAPSULE, atomic_load, fs_api

cdef extern from "Python.h":
    object PyObject_GenericGetAttr(object o, object name)
    int PyObject_GenericSetAttr(object o, object name, object value) except -1
    PyObject *PyThreadState_GetDict()  # borrowed
    ctypedef int (*visitproc)(PyObject *, void *) noexcept
    ctypedef int (*traverseproc)(PyObject *, visitproc, void *) noexcept
    ctypedef struct PyTypeObject:
        traverseproc tp_traverse

cdef const fs_api *fs = <const fs_api *>PyCapsule_Import(FS_API_CAPSULE, 0)
cdef object MISSING = object()
cdef str SENTINEL = "forksafe.local"


class ThreadEnd:
    """The sentinel in a thread's own dictionary: when it is freed, the thread's values are."""

    def __init__(self, token, stamp):
        self.token = token
        self.stamp = stamp
        self.locals = WeakSet()

    def __del__(self):
        if self.stamp == atomic_load(&fs.page.stamp):
            for each in list(self.locals):
                drop(each, self.token)


cdef int drop(local self, token) except -1:
    self.values.pop(token, None)
    return 0


@cython.no_gc_clear
cdef class local:
    """local(*args, **kwargs)\n--\n
    Attributes with a value for each thread, as threading.local. In a child no thread has a value yet.

    The arguments are for the __init__() of a subclass, which is called for each thread.
    """
    cdef dict values  # thread token: that thread's attributes
    cdef uint64_t stamp
    cdef tuple args
    cdef dict kwargs
    cdef object __weakref__

    def __cinit__(self, *args, **kwargs):
        if (args or kwargs) and type(self).__init__ is object.__init__:
            raise TypeError("Initialization arguments are not supported")
        self.args = args
        self.kwargs = kwargs
        self.values = {}
        self.stamp = atomic_load(&fs.page.stamp)
        add_thread(self, fs.token())  # type.__call__ calls __init__ for this thread next

    def __dealloc__(self):
        if self.stamp != atomic_load(&fs.page.stamp):
            Py_INCREF(self.values)  # inherited: kept alive for good

    @property
    def __class__(self):
        return _StandardLocal if type(self) is local else type(self)

    def __getattribute__(self, name):
        cdef dict attributes = own(self)
        if name == "__dict__":
            return attributes
        if not is_data_descriptor(self, name):
            value = attributes.get(name, MISSING)
            if value is not MISSING:
                return value
        return PyObject_GenericGetAttr(self, name)

    def __setattr__(self, name, value):
        cdef dict attributes = own(self)
        if name == "__dict__":
            raise AttributeError(f"{type(self).__name__!r} object attribute '__dict__' is read-only")
        if is_data_descriptor(self, name):
            PyObject_GenericSetAttr(self, name, value)
        else:
            attributes[name] = value

    def __delattr__(self, name):
        cdef dict attributes = own(self)
        if name == "__dict__":
            raise AttributeError(f"{type(self).__name__!r} object attribute '__dict__' is read-only")
        if is_data_descriptor(self, name):
            delattr_of_type(self, name)
        elif attributes.pop(name, MISSING) is MISSING:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


# The garbage collector clears, and so frees, what only garbage refers to. So it must not find inherited values.
cdef traverseproc traverse_own = (<PyTypeObject *>local).tp_traverse


cdef int traverse(PyObject *self, visitproc visit, void *arg) noexcept:
    if (<local>self).stamp != atomic_load(&fs.page.stamp):
        return 0
    return traverse_own(self, visit, arg)


(<PyTypeObject *>local).tp_traverse = traverse


cdef dict own(local self):
    """The calling thread's attributes. Its first use makes them and calls __init__()."""
    cdef dict attributes
    if self.stamp != atomic_load(&fs.page.stamp):
        run_due_hooks()
        abandon_inherited(self)
    token = fs.token()
    attributes = self.values.get(token)
    if attributes is None:
        attributes = add_thread(self, token)
        try:
            type(self).__init__(self, *self.args, **self.kwargs)
        except BaseException:
            self.values.pop(token, None)
            raise
    return attributes


cdef int abandon_inherited(local self) except -1:
    cdef uint64_t now = atomic_load(&fs.page.stamp)
    with cython.critical_section(self):
        if self.stamp != now:
            Py_INCREF(self.values)
            self.values = {}
            self.stamp = now
    return 0


cdef dict add_thread(local self, token):
    cdef dict attributes = {}
    thread = <dict>PyThreadState_GetDict()
    end = thread.get(SENTINEL)
    if end is None or end.stamp != self.stamp:
        end = thread[SENTINEL] = ThreadEnd(token, self.stamp)
    end.locals.add(self)
    self.values[token] = attributes
    return attributes


cdef bint is_data_descriptor(local self, name) except -1:
    if type(self) is local and not name.startswith("__"):
        return False
    for base in type(self).__mro__:
        if name in base.__dict__:
            return hasattr(type(base.__dict__[name]), "__set__")
    return False


cdef int delattr_of_type(local self, name) except -1:
    for base in type(self).__mro__:
        if name in base.__dict__:
            type(base.__dict__[name]).__delete__(base.__dict__[name], self)
            return 0
    return 0

"""Binds fork_state and descriptors: what this process knows about the forks that made it, and flagged descriptors.

Guarantees: importing registers the C handler, once in a process. The layer above gives one callable, which runs the
hooks that are due in the child of a fork that Python did not make. It is called at the child's first slow path, never
from the handler.

Why that survives fork: see fork_state.h and descriptors.h.
"""
from cpython.exc cimport PyErr_SetFromErrno
from cpython.pycapsule cimport PyCapsule_New
from cpython.ref cimport PyObject, Py_DECREF, Py_INCREF
from libc.errno cimport errno
from libc.stdint cimport uint64_t

from forksafe_core.fork_state cimport (
    FS_API_CAPSULE, FS_SURVIVOR_UNKNOWN, atomic_load, atomic_store, fs_api, fs_generation, fs_get_api, fs_gone,
    fd_flag, fd_is_flagged, fd_next_flagged, fd_tombstone, fd_unflag, fs_ident_of, fs_init, fs_mark_settled, fs_notice,
    fs_set_tracking, fs_token, fs_wipes,
)

cdef extern from "Python.h":
    void PyErr_WriteUnraisable(PyObject *obj)
    void PyErr_SetObject(object type, object value)
    int Py_AddPendingCall(int (*func)(void *) noexcept, void *arg)

cdef extern from "thread_states.h":
    void forget_thread_state(unsigned long native_id)

cdef int _error = fs_init()
if _error:
    errno = _error
    PyErr_SetFromErrno(OSError)

cdef const fs_api *fs = fs_get_api()
_C_API = PyCapsule_New(<void *>fs, FS_API_CAPSULE, NULL)

cdef object _late_hooks = None


def generation():
    """How many forks lie between this process and the one that first imported forksafe."""
    run_due_hooks()
    return fs_generation()


def token():
    """The calling thread's token: never another thread's, here or in any child."""
    cdef uint64_t mine = fs_token()
    if not mine:
        raise MemoryError
    return mine


def gone(uint64_t token):
    """True when the thread with this token vanished in a fork."""
    return fs_gone(token) == 1


def ident_of(uint64_t token):
    """threading.get_ident() of a token's thread; 0 when it ended or is not known."""
    return fs_ident_of(token)


def state():
    """The numbers behind the answers, for tests and reports."""
    fs_notice()
    survivor = atomic_load(&fs.state.survivor)
    return {
        "generation": fs_generation(),
        "last_token": atomic_load(&fs.state.last_token),
        "watermark": atomic_load(&fs.state.watermark),
        "survivor": None if survivor == FS_SURVIVOR_UNKNOWN else survivor,
        "late_forks": atomic_load(&fs.state.late_forks),
        "left_shared": atomic_load(&fs.state.left_shared),
        "wipes": bool(fs_wipes()),
    }


def flag(int fd):
    """In every child this descriptor will be a tombstone, if it still is the same file then. OSError if not open.

    False where the file is known only by its inode, so that the same file opened anew would pass for it.
    """
    cdef int certain = 0
    raise_errno(fd_flag(fd, fs_generation(), &certain))
    return certain != 0


def unflag(int fd):
    """Undo flag(). True if it was flagged."""
    fs_notice()
    return fd_unflag(fd)


def is_flagged(int fd):
    """True when a child would find a tombstone in place of this descriptor."""
    fs_notice()
    return fd_is_flagged(fd)


def flagged():
    """The descriptors that are flagged, in order."""
    cdef int fd
    fs_notice()
    found = []
    fd = fd_next_flagged(0)
    while fd >= 0:
        found.append(fd)
        fd = fd_next_flagged(fd + 1)
    return found


def tombstone(int fd):
    """Put a tombstone over this descriptor, here and now. OSError if it is not open."""
    raise_errno(fd_tombstone(fd))


cdef int raise_errno(int error) except -1:
    if error:
        errno = error
        PyErr_SetFromErrno(OSError)
    return 0


def call_soon(function):
    """Have the main thread call function() as soon as it runs Python code again, and once more while it returns True.

    False if too many such calls wait: then it is not called.
    """
    Py_INCREF(function)
    if Py_AddPendingCall(call_pending, <void *>function) == 0:
        return True
    Py_DECREF(function)
    return False


cdef int call_pending(void *function) noexcept:
    called = <object>function
    try:
        # Not asked for by the function itself: without a GIL CPython forgets a call that is added within such a call.
        if called() is True:
            if Py_AddPendingCall(call_pending, function) == 0:
                return 0
            raise RuntimeError("too many calls wait for the main thread: this one is not made again")
    except BaseException as error:
        write_unraisable(error, called)
    Py_DECREF(called)
    return 0


def forget_thread(unsigned long native_id):
    """Do not let the interpreter's end wait for the state of this thread, which does not exist in this process."""
    forget_thread_state(native_id)


def keep_alive(obj):
    """Never free this object, nor what it refers to: no finaliser of theirs runs, not even when Python ends."""
    Py_INCREF(obj)


def set_late_hooks(hooks):
    """Call hooks() in a child at its first slow path, if no os.fork is about to run them. It calls mark_settled()."""
    global _late_hooks
    _late_hooks = hooks


def mark_settled():
    """This process's after_in_child hooks are running or have run. True for the caller that changed it."""
    return fs_mark_settled()


def set_tracking(bint on):
    """Have locks note when they are taken, or stop that; see taken_at()."""
    fs_set_tracking(on)


def exchange_forking(uint64_t token):
    """Say which thread (0: none) is between its before and after hooks; returns what was said before."""
    cdef uint64_t before = atomic_load(&fs.state.forking)
    atomic_store(&fs.state.forking, token)
    return before


def write_unraisable(exception, where):
    """Report an exception that no caller can catch, as the interpreter does: through sys.unraisablehook."""
    PyErr_SetObject(type(exception), exception)
    PyErr_WriteUnraisable(<PyObject *>where)


cdef int run_due_hooks() except -1:
    """Run the hooks that are due in this process. The caller has the GIL, and holds no lock."""
    cdef uint64_t forking
    fs_generation()  # notices a late fork, and lets the survivor show itself
    if atomic_load(&fs.page.settled):
        return 0
    forking = atomic_load(&fs.state.forking)
    if forking and forking == atomic_load(&fs.state.survivor):
        return 0  # os.fork is still going through its own hooks, ours will come
    if _late_hooks is None:
        mark_settled()
    else:
        _late_hooks()
    return 0

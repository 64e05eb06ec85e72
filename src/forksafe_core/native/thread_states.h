/* thread_states.h: the interpreter's end does not wait for the states of threads that vanished.
 *
 * From CPython 3.15 on the interpreter ends only when no state is left of a non-daemon thread that threading
 * started. After os.fork it removes the states of vanished threads. After a fork by C they stay, and the child would
 * wait for ever. Removing one would run finalisers of the parent's objects, so it is marked as a daemon's instead.
 */
#ifndef FORKSAFE_THREAD_STATES_H
#define FORKSAFE_THREAD_STATES_H

#include <Python.h>

/* native_id: of a thread that does not exist in this process. */
static inline void forget_thread_state(unsigned long native_id) {
#if PY_VERSION_HEX >= 0x030F0000 && defined(PY_HAVE_THREAD_NATIVE_ID)
    enum { THREADING = 3, THREADING_DAEMON = 6 }; /* the header keeps their names to the interpreter itself */
    for (PyThreadState *state = PyInterpreterState_ThreadHead(PyInterpreterState_Get()); state;
         state = PyThreadState_Next(state))
        if (state->native_thread_id == native_id && state->_whence == THREADING) state->_whence = THREADING_DAEMON;
#else
    (void)native_id;
#endif
}

#endif

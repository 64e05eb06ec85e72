/* fast_new.h: Lock() without arguments skips type.__call__, __new__ and __init__.
 *
 * Calls with arguments and subclasses take the ordinary way. A recorder, while there is one, is called for both.
 */
#ifndef FORKSAFE_FAST_NEW_H
#define FORKSAFE_FAST_NEW_H

#include <Python.h>

void add_fast_new(PyObject *type);

/* Call wanted(made) from now on, which the caller keeps alive; NULL: not any more. */
void record_new(PyObject *wanted);

#endif

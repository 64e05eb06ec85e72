/* plain_new.h: Lock(), without arguments, made without the detour through type.__call__, __new__ and __init__.
 *
 * Calls with arguments and subclasses take the ordinary way. While somebody wants to know what is made, it is told of
 * both.
 */
#ifndef FORKSAFE_PLAIN_NEW_H
#define FORKSAFE_PLAIN_NEW_H

#include <Python.h>

void make_plain_calls_fast(PyObject *type);

/* Call wanted(made) from now on, which the caller keeps alive; NULL: not any more. */
void record_plain_calls(PyObject *wanted);

#endif

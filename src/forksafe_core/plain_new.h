/* plain_new.h: Lock(), without arguments, made without the detour through type.__call__, __new__ and __init__.
 *
 * Calls with arguments and subclasses take the ordinary way.
 */
#ifndef FORKSAFE_PLAIN_NEW_H
#define FORKSAFE_PLAIN_NEW_H

#include <Python.h>

void make_plain_calls_fast(PyObject *type);

#endif

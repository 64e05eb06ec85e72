/* context_methods.h: cheap __enter__ and __exit__ for a `with` statement.
 *
 * `with` looks both up on the type and binds them. Binding an ordinary C method makes an object that the garbage
 * collector tracks; that costs more than the lock. These bind to a small untracked object from a free list.
 */
#ifndef FORKSAFE_CONTEXT_METHODS_H
#define FORKSAFE_CONTEXT_METHODS_H

#include <Python.h>

typedef PyObject *(*context_op)(PyObject *self);

/* `type`.__enter__() calls enter(self), `type`.__exit__(...) calls leave(self); the docstrings must live for ever.
 * -1: an exception is set. */
int add_context_methods(PyObject *type, context_op enter, const char *enter_doc, context_op leave,
                        const char *leave_doc);

#endif

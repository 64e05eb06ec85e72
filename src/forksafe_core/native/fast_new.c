/* fast_new.c: see fast_new.h. */
#include "fast_new.h"

#include <stdatomic.h>

static PyObject *empty;
static PyObject *_Atomic recorder; /* borrowed: the caller that sets it keeps it alive */

static PyObject *recorded(PyObject *made) {
    PyObject *wanted = atomic_load(&recorder), *result;
    if (!made || !wanted) return made;
    Py_INCREF(wanted);
    result = PyObject_CallOneArg(wanted, made);
    Py_DECREF(wanted);
    if (!result) PyErr_WriteUnraisable(wanted); /* making a lock does not fail for it */
    Py_XDECREF(result);
    return made;
}

static PyObject *call(PyObject *type, PyObject *const *args, size_t nargsf, PyObject *keywords) {
    PyTypeObject *t = (PyTypeObject *)type;
    Py_ssize_t nargs = PyVectorcall_NARGS(nargsf), named = keywords ? PyTuple_GET_SIZE(keywords) : 0;
    PyObject *tuple, *dict = NULL, *made = NULL;
    if (nargs == 0 && named == 0) {
        made = t->tp_new(t, empty, NULL);
        return atomic_load_explicit(&recorder, memory_order_relaxed) ? recorded(made) : made;
    }
    if (!(tuple = PyTuple_New(nargs))) return NULL;
    for (Py_ssize_t i = 0; i < nargs; i++) PyTuple_SET_ITEM(tuple, i, Py_NewRef(args[i]));
    if (named && !(dict = PyDict_New())) goto done;
    for (Py_ssize_t i = 0; i < named; i++)
        if (PyDict_SetItem(dict, PyTuple_GET_ITEM(keywords, i), args[nargs + i])) goto done;
    made = PyType_Type.tp_call(type, tuple, dict);
done:
    Py_DECREF(tuple);
    Py_XDECREF(dict);
    return recorded(made);
}

void record_new(PyObject *wanted) { atomic_store(&recorder, wanted); }

void add_fast_new(PyObject *type) {
    if (!empty) empty = PyTuple_New(0);
    if (empty) ((PyTypeObject *)type)->tp_vectorcall = call;
}

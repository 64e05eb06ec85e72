/* plain_new.c: see plain_new.h. */
#include "plain_new.h"

static PyObject *empty;

static PyObject *call(PyObject *type, PyObject *const *args, size_t nargsf, PyObject *keywords) {
    PyTypeObject *t = (PyTypeObject *)type;
    Py_ssize_t nargs = PyVectorcall_NARGS(nargsf), named = keywords ? PyTuple_GET_SIZE(keywords) : 0;
    PyObject *tuple, *dict = NULL, *made = NULL;
    if (nargs == 0 && named == 0) return t->tp_new(t, empty, NULL);
    if (!(tuple = PyTuple_New(nargs))) return NULL;
    for (Py_ssize_t i = 0; i < nargs; i++) PyTuple_SET_ITEM(tuple, i, Py_NewRef(args[i]));
    if (named && !(dict = PyDict_New())) goto done;
    for (Py_ssize_t i = 0; i < named; i++)
        if (PyDict_SetItem(dict, PyTuple_GET_ITEM(keywords, i), args[nargs + i])) goto done;
    made = PyType_Type.tp_call(type, tuple, dict);
done:
    Py_DECREF(tuple);
    Py_XDECREF(dict);
    return made;
}

void make_plain_calls_fast(PyObject *type) {
    if (!empty) empty = PyTuple_New(0);
    if (empty) ((PyTypeObject *)type)->tp_vectorcall = call;
}

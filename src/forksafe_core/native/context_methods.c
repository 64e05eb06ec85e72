/* context_methods.c: see context_methods.h. Two types: the method in the class, and the method bound to a lock. */
#include "context_methods.h"

#include <stddef.h>

#define ENTER_SIGNATURE "($self, /)"
#define EXIT_SIGNATURE "($self, exc_type=None, exc_value=None, traceback=None, /)"

typedef struct {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    context_op op;
    PyTypeObject *owner; /* borrowed: the method lies in its dict */
    const char *name, *signature, *doc;
    Py_ssize_t max_args;
} method;

typedef struct bound {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    union {
        PyObject *self;
        struct bound *next; /* while on the free list */
    };
    method *method;
} bound;

static PyTypeObject method_type, bound_type;

/* Free-threaded builds have a fast allocator of their own, and no lock that would guard a list. */
#ifdef Py_GIL_DISABLED
static bound *new_bound(void) { return PyObject_New(bound, &bound_type); }
static void free_bound(bound *b) { PyObject_Free(b); }
#else
#define MOST_FREE 64
static bound *free_list;
static int free_count;

static bound *new_bound(void) {
    bound *b = free_list;
    if (!b) return PyObject_New(bound, &bound_type);
    free_list = b->next;
    free_count--;
    return (bound *)PyObject_Init((PyObject *)b, &bound_type);
}

static void free_bound(bound *b) {
    if (free_count == MOST_FREE) {
        PyObject_Free(b);
        return;
    }
    b->next = free_list;
    free_list = b;
    free_count++;
}
#endif

static PyObject *run(method *m, PyObject *self, Py_ssize_t args, PyObject *keywords) {
    if (args > m->max_args || (keywords && PyTuple_GET_SIZE(keywords))) {
        PyErr_Format(PyExc_TypeError, "%s.%s() takes at most %zd positional arguments (%zd given)%s",
                     m->owner->tp_name, m->name, m->max_args, args, keywords ? " and no keyword arguments" : "");
        return NULL;
    }
    return m->op(self);
}

static PyObject *call_bound(PyObject *callable, PyObject *const *args, size_t nargsf, PyObject *keywords) {
    bound *b = (bound *)callable;
    (void)args;
    return run(b->method, b->self, PyVectorcall_NARGS(nargsf), keywords);
}

static PyObject *call_method(PyObject *callable, PyObject *const *args, size_t nargsf, PyObject *keywords) {
    method *m = (method *)callable;
    Py_ssize_t nargs = PyVectorcall_NARGS(nargsf);
    if (nargs < 1 || !PyObject_TypeCheck(args[0], m->owner)) {
        PyErr_Format(PyExc_TypeError, "descriptor '%s' needs a '%s' object", m->name, m->owner->tp_name);
        return NULL;
    }
    return run(m, args[0], nargs - 1, keywords);
}

static PyObject *bind(PyObject *callable, PyObject *self, PyObject *type) {
    bound *b;
    (void)type;
    if (!self) return Py_NewRef(callable);
    if (!PyObject_TypeCheck(self, ((method *)callable)->owner)) {
        PyErr_Format(PyExc_TypeError, "descriptor '%s' for '%s' objects doesn't apply to a '%s' object",
                     ((method *)callable)->name, ((method *)callable)->owner->tp_name, Py_TYPE(self)->tp_name);
        return NULL;
    }
    if (!(b = new_bound())) return NULL;
    b->vectorcall = call_bound;
    b->self = Py_NewRef(self);
    b->method = (method *)Py_NewRef(callable);
    return (PyObject *)b;
}

static void dealloc_bound(PyObject *object) {
    bound *b = (bound *)object;
    method *m = b->method;
    Py_DECREF(b->self);
    free_bound(b);
    Py_DECREF(m);
}

static PyObject *method_repr(PyObject *object) {
    method *m = (method *)object;
    return PyUnicode_FromFormat("<method '%s' of '%s' objects>", m->name, m->owner->tp_name);
}

static PyObject *bound_repr(PyObject *object) {
    bound *b = (bound *)object;
    return PyUnicode_FromFormat("<built-in method %s of %s object at %p>", b->method->name,
                                Py_TYPE(b->self)->tp_name, (void *)b->self);
}

static PyObject *bound_compare(PyObject *a, PyObject *b, int op) {
    int same;
    if (Py_TYPE(a) != &bound_type || Py_TYPE(b) != &bound_type || (op != Py_EQ && op != Py_NE))
        Py_RETURN_NOTIMPLEMENTED;
    same = ((bound *)a)->self == ((bound *)b)->self && ((bound *)a)->method == ((bound *)b)->method;
    return PyBool_FromLong(same == (op == Py_EQ));
}

static Py_hash_t bound_hash(PyObject *object) {
    bound *b = (bound *)object;
    return (Py_hash_t)(((uintptr_t)b->self ^ (uintptr_t)b->method) >> 4);
}

static method *method_of(PyObject *object) {
    return Py_TYPE(object) == &bound_type ? ((bound *)object)->method : (method *)object;
}

static PyObject *get_name(PyObject *o, void *unused) {
    (void)unused;
    return PyUnicode_FromString(method_of(o)->name);
}

static PyObject *get_doc(PyObject *o, void *unused) {
    (void)unused;
    return PyUnicode_FromString(method_of(o)->doc);
}

static PyObject *get_signature(PyObject *o, void *unused) {
    (void)unused;
    return PyUnicode_FromString(method_of(o)->signature);
}

static PyObject *get_self(PyObject *o, void *unused) {
    (void)unused;
    return Py_NewRef(((bound *)o)->self);
}

static PyObject *get_objclass(PyObject *o, void *unused) {
    (void)unused;
    return Py_NewRef((PyObject *)((method *)o)->owner);
}

static PyGetSetDef method_getset[] = {{"__name__", get_name, NULL, NULL, NULL},
                                      {"__doc__", get_doc, NULL, NULL, NULL},
                                      {"__text_signature__", get_signature, NULL, NULL, NULL},
                                      {"__objclass__", get_objclass, NULL, NULL, NULL},
                                      {NULL, NULL, NULL, NULL, NULL}};

static PyGetSetDef bound_getset[] = {{"__name__", get_name, NULL, NULL, NULL},
                                     {"__doc__", get_doc, NULL, NULL, NULL},
                                     {"__text_signature__", get_signature, NULL, NULL, NULL},
                                     {"__self__", get_self, NULL, NULL, NULL},
                                     {NULL, NULL, NULL, NULL, NULL}};

static PyTypeObject method_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "forksafe_core.context_method",
    .tp_basicsize = sizeof(method),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_VECTORCALL | Py_TPFLAGS_METHOD_DESCRIPTOR,
    .tp_vectorcall_offset = offsetof(method, vectorcall),
    .tp_call = PyVectorcall_Call,
    .tp_descr_get = bind,
    .tp_repr = method_repr,
    .tp_getset = method_getset,
};

static PyTypeObject bound_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "forksafe_core.bound_context_method",
    .tp_basicsize = sizeof(bound),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_VECTORCALL,
    .tp_vectorcall_offset = offsetof(bound, vectorcall),
    .tp_call = PyVectorcall_Call,
    .tp_dealloc = dealloc_bound,
    .tp_repr = bound_repr,
    .tp_richcompare = bound_compare,
    .tp_hash = bound_hash,
    .tp_getset = bound_getset,
};

static int add(PyTypeObject *type, const char *name, const char *signature, const char *doc, context_op op,
               Py_ssize_t max_args) {
    method *m = PyObject_New(method, &method_type);
    int failed;
    if (!m) return -1;
    m->vectorcall = call_method;
    m->op = op;
    m->owner = type;
    m->name = name;
    m->signature = signature;
    m->doc = doc;
    m->max_args = max_args;
    failed = PyDict_SetItemString(type->tp_dict, name, (PyObject *)m);
    Py_DECREF(m);
    return failed;
}

int add_context_methods(PyObject *type, context_op enter, const char *enter_doc, context_op leave,
                        const char *leave_doc) {
    PyTypeObject *t = (PyTypeObject *)type;
    if (PyType_Ready(&method_type) || PyType_Ready(&bound_type)) return -1;
    if (add(t, "__enter__", ENTER_SIGNATURE, enter_doc, enter, 0)) return -1;
    if (add(t, "__exit__", EXIT_SIGNATURE, leave_doc, leave, 3)) return -1;
    PyType_Modified(t);
    return 0;
}

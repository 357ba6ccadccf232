/* The compiled base class of a stream: whose turn it is, how many frames went by, and `step` where it is simple.

   A step is simple where one array goes in and one comes out, each in the order of the graph, and nothing waits. All
   else, and everything that is wrong with a frame, goes to the method `_any_step` with the same arguments.

   The turn is a plain number, since it changes only while the thread has the GIL. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

#define NPY_NO_DEPRECATED_API NPY_1_7_API_VERSION
#include <numpy/arrayobject.h>
#include <numpy/arrayscalars.h>

#include <stdint.h>
#include <string.h>

#define AXES 8
/* From so many multiply-adds on, other threads of Python may run meanwhile. */
#define LONG 200000

extern size_t rnn_macs(void);
extern void rnn_step(void *state, const void *const *in, void *const *out);
extern void rnn_rows(void *state, size_t stride, const void *const *in, void *const *out, size_t rows, size_t steps);

/* One end of the stream. */
typedef struct {
    PyArray_Descr *descr;
    void *buffer;
    size_t bytes, values;
    npy_int64 rows; /* of the table that the values index, or 0 */
    npy_intp dims[AXES];
    int type, ndim;
} End;

typedef void By_team(void *team, void *state, size_t stride, const void *const *in, void *const *out, size_t rows, size_t steps);

typedef struct {
    PyObject_HEAD
    PyObject *memory;  /* owns everything that an address leads to */
    PyObject *pending; /* a dict of frames that wait */
    long long frames, chunk;
    char *state;
    size_t stride, rows;
    void *team; /* of threads, or NULL */
    By_team *by_team;
    const void **in;
    void **out;
    End x, y;
    int busy, simple, is_long;
} Stepper;

static PyObject *ANY_STEP, *BUSY, *OUT;

/* --- frames */

typedef uint16_t __attribute__((may_alias)) bits16;
typedef uint32_t __attribute__((may_alias)) bits32;
typedef uint64_t __attribute__((may_alias)) bits64;

#define FINITE(name, bits, exponent)                                   \
    static int name(const void *from, size_t n)                        \
    {                                                                  \
        const bits *at = from;                                         \
        bits bad = 0;                                                  \
        for (size_t i = 0; i < n; i++) bad |= (at[i] & exponent) == exponent; \
        return !bad;                                                   \
    }
FINITE(finite16, bits16, 0x7c00u)
FINITE(finite32, bits32, 0x7f800000u)
FINITE(finite64, bits64, 0x7ff0000000000000u)

#define INSIDE(name, type)                                              \
    static int name(const void *from, size_t n, npy_int64 rows)         \
    {                                                                   \
        const type *at = from;                                          \
        for (size_t i = 0; i < n; i++)                                  \
            if (at[i] < -rows || at[i] >= rows) return 0;               \
        return 1;                                                       \
    }
INSIDE(inside32, npy_int32)
INSIDE(inside64, npy_int64)

static int is_fine(const End *x, const void *from)
{
    switch (x->type) {
    case NPY_HALF: return finite16(from, x->values);
    case NPY_FLOAT: return finite32(from, x->values);
    case NPY_DOUBLE: return finite64(from, x->values);
    case NPY_INT32: return !x->rows || inside32(from, x->values, x->rows);
    case NPY_INT64: return !x->rows || inside64(from, x->values, x->rows);
    default: return !x->rows;
    }
}

static int fits(const End *end, PyObject *array, int flags)
{
    if (!PyArray_CheckExact(array)) return 0;
    PyArrayObject *a = (PyArrayObject *)array;
    if (PyArray_DESCR(a) != end->descr && (PyArray_TYPE(a) != end->type || !PyArray_ISNOTSWAPPED(a))) return 0;
    if (PyArray_NDIM(a) != end->ndim || !PyArray_CHKFLAGS(a, flags)) return 0;
    for (int i = 0; i < end->ndim; i++)
        if (PyArray_DIM(a, i) != end->dims[i]) return 0;
    return 1;
}

/* The address of the frame's values, or NULL where Python has to look at it. */
static const void *values_of(const End *x, PyObject *frame, npy_int64 *scalar)
{
    if (fits(x, frame, NPY_ARRAY_CARRAY_RO)) return PyArray_DATA((PyArrayObject *)frame);
    if (x->ndim || x->type != NPY_INT64) return NULL;
    if (PyLong_CheckExact(frame)) {
        int over;
        *scalar = PyLong_AsLongLongAndOverflow(frame, &over);
        return over ? NULL : scalar;
    }
    if (PyArray_IsScalar(frame, Int64)) {
        *scalar = PyArrayScalar_VAL(frame, Int64);
        return scalar;
    }
    return NULL;
}

/* --- steps */

static void compute(Stepper *self, const void *const *in, void *const *out)
{
    if (self->team) self->by_team(self->team, self->state, self->stride, in, out, self->rows, 1);
    else if (self->rows == 1) rnn_step(self->state, in, out);
    else rnn_rows(self->state, self->stride, in, out, self->rows, 1);
}

static void compute_aside(Stepper *self, const void *const *in, void *const *out)
{
    int before = self->busy;
    self->busy = 1;
    Py_BEGIN_ALLOW_THREADS
    compute(self, in, out);
    Py_END_ALLOW_THREADS
    self->busy = before;
}

static PyObject *any_step(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *names)
{
    PyObject *few[4], **all = few;
    Py_ssize_t total = nargs + (names ? PyTuple_GET_SIZE(names) : 0);
    if (total > 3 && !(all = PyMem_New(PyObject *, total + 1))) return PyErr_NoMemory();
    all[0] = self;
    for (Py_ssize_t i = 0; i < total; i++) all[i + 1] = args[i];
    PyObject *given = PyObject_VectorcallMethod(ANY_STEP, all, (size_t)nargs + 1, names);
    if (all != few) PyMem_Free(all);
    return given;
}

/* Whether the arguments are (x), (x, out) or (x, out=out). */
static int are_plain(Py_ssize_t nargs, PyObject *names)
{
    if (!names) return nargs == 1 || nargs == 2;
    /* A name in the source of a call is interned; one that is not goes to Python. */
    return nargs == 1 && PyTuple_GET_SIZE(names) == 1 && PyTuple_GET_ITEM(names, 0) == OUT;
}

static PyObject *Stepper_step(PyObject *me, PyObject *const *args, Py_ssize_t nargs, PyObject *names)
{
    Stepper *self = (Stepper *)me;
    npy_int64 scalar;
    if (!self->simple || self->busy || !are_plain(nargs, names)) return any_step(me, args, nargs, names);
    if (!self->pending || !PyDict_CheckExact(self->pending) || PyDict_GET_SIZE(self->pending))
        return any_step(me, args, nargs, names);
    const void *from = values_of(&self->x, args[0], &scalar);
    if (!from || !is_fine(&self->x, from)) return any_step(me, args, nargs, names);
    PyObject *out = nargs == 2 || names ? args[1] : Py_None;
    if (out == Py_None) {
        Py_INCREF(self->y.descr);
        out = PyArray_NewFromDescr(&PyArray_Type, self->y.descr, self->y.ndim, self->y.dims, NULL, NULL, 0, NULL);
        if (!out) return NULL;
    } else {
        if (!fits(&self->y, out, NPY_ARRAY_CARRAY)) return any_step(me, args, nargs, names);
        Py_INCREF(out);
    }
    void *to = PyArray_DATA((PyArrayObject *)out);
    if (self->is_long) {
        /* Others could write to the caller's arrays meanwhile. */
        const void *in = self->x.buffer;
        void *given = self->y.buffer;
        memcpy(self->x.buffer, from, self->x.bytes);
        compute_aside(self, &in, &given);
        memcpy(to, given, self->y.bytes);
    } else {
        compute(self, &from, &to);
    }
    self->frames += self->chunk;
    return out;
}

/* --- what the methods in Python use */

static PyObject *Stepper_locked(PyObject *me, PyObject *Py_UNUSED(none)) { return PyBool_FromLong(((Stepper *)me)->busy); }

/* The stream is its own turn: `with` calls what follows and looks for an interrupt in neither before its body begins. */
static PyObject *Stepper_turn(PyObject *me, void *Py_UNUSED(none)) { return Py_NewRef(me); }

static PyObject *Stepper_enter(PyObject *me, PyObject *Py_UNUSED(none))
{
    Stepper *self = (Stepper *)me;
    if (self->busy) {
        PyObject *error = PyObject_CallMethodNoArgs(me, BUSY);
        if (error) PyErr_SetObject((PyObject *)Py_TYPE(error), error);
        Py_XDECREF(error);
        return NULL;
    }
    self->busy = 1;
    Py_RETURN_NONE;
}

static PyObject *Stepper_exit(PyObject *me, PyObject *Py_UNUSED(error))
{
    ((Stepper *)me)->busy = 0;
    Py_RETURN_NONE;
}

static PyObject *Stepper_advance(PyObject *me, PyObject *Py_UNUSED(none))
{
    Stepper *self = (Stepper *)me;
    if (!self->in) {
        PyErr_SetString(PyExc_RuntimeError, "this stream is not bound to its memory.");
        return NULL;
    }
    if (self->is_long) compute_aside(self, self->in, self->out);
    else compute(self, self->in, self->out);
    self->frames += self->chunk;
    Py_RETURN_NONE;
}

static int End_set(End *end, PyObject *view)
{
    PyArrayObject *a = (PyArrayObject *)view;
    if (!PyArray_Check(view) || !PyArray_CHKFLAGS(a, NPY_ARRAY_CARRAY) || PyArray_NDIM(a) > AXES) {
        PyErr_Format(PyExc_ValueError, "a frame of a simple step is a contiguous array of %d axes at most.", AXES);
        return -1;
    }
    Py_INCREF(PyArray_DESCR(a));
    end->descr = PyArray_DESCR(a);
    end->type = PyArray_TYPE(a);
    end->ndim = PyArray_NDIM(a);
    memcpy(end->dims, PyArray_DIMS(a), sizeof(npy_intp) * (size_t)end->ndim);
    end->buffer = PyArray_DATA(a);
    end->bytes = (size_t)PyArray_NBYTES(a);
    end->values = (size_t)PyArray_SIZE(a);
    return 0;
}

/* The addresses of the arrays in a tuple. */
static void **addresses(PyObject *arrays)
{
    Py_ssize_t count = PyTuple_GET_SIZE(arrays);
    void **found = PyMem_New(void *, count);
    if (!found) return (void **)PyErr_NoMemory();
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *array = PyTuple_GET_ITEM(arrays, i);
        if (!PyArray_Check(array)) {
            PyMem_Free(found);
            PyErr_SetString(PyExc_TypeError, "a buffer is an array.");
            return NULL;
        }
        found[i] = PyArray_DATA((PyArrayObject *)array);
    }
    return found;
}

static PyObject *Stepper_bind(PyObject *me, PyObject *args)
{
    Stepper *self = (Stepper *)me;
    PyObject *memory, *inputs, *outputs, *x, *y;
    Py_ssize_t state, stride, rows;
    long long chunk, ids;
    if (!PyArg_ParseTuple(args, "O(nnn)LO!O!OOL:_bind", &memory, &state, &stride, &rows, &chunk, &PyTuple_Type,
                          &inputs, &PyTuple_Type, &outputs, &x, &y, &ids))
        return NULL;
    if (self->in) {
        PyErr_SetString(PyExc_RuntimeError, "this stream is bound already.");
        return NULL;
    }
    void **in = addresses(inputs), **out = in ? addresses(outputs) : NULL;
    if (!out || (x != Py_None && (End_set(&self->x, x) < 0 || End_set(&self->y, y) < 0))) {
        PyMem_Free(in);
        PyMem_Free(out);
        return NULL;
    }
    Py_INCREF(memory);
    self->memory = memory;
    self->state = (char *)state;
    self->stride = (size_t)stride;
    self->rows = (size_t)rows;
    self->chunk = chunk;
    self->in = (const void **)in;
    self->out = out;
    self->x.rows = ids;
    self->is_long = rnn_macs() * (size_t)rows > LONG;
    self->simple = x != Py_None;
    Py_RETURN_NONE;
}

static PyObject *Stepper_share(PyObject *me, PyObject *args)
{
    Stepper *self = (Stepper *)me;
    Py_ssize_t team, by_team;
    if (!PyArg_ParseTuple(args, "nn:_share", &team, &by_team)) return NULL;
    self->by_team = (By_team *)by_team;
    self->team = (void *)team;
    Py_RETURN_NONE;
}

/* --- the type */

static int Stepper_traverse(PyObject *me, visitproc visit, void *arg)
{
    Stepper *self = (Stepper *)me;
    Py_VISIT(Py_TYPE(me));
    Py_VISIT(self->memory);
    Py_VISIT(self->pending);
    return 0;
}

static int Stepper_clear(PyObject *me)
{
    Stepper *self = (Stepper *)me;
    /* The addresses end with their memory. */
    self->simple = 0;
    self->team = NULL;
    PyMem_Free(self->in);
    PyMem_Free(self->out);
    self->in = NULL;
    self->out = NULL;
    Py_CLEAR(self->memory);
    Py_CLEAR(self->pending);
    return 0;
}

static void Stepper_dealloc(PyObject *me)
{
    Stepper *self = (Stepper *)me;
    PyTypeObject *type = Py_TYPE(me);
    PyObject_GC_UnTrack(me);
    Stepper_clear(me);
    Py_CLEAR(self->x.descr);
    Py_CLEAR(self->y.descr);
    type->tp_free(me);
    Py_DECREF(type);
}

static PyMethodDef methods[] = {
    {"step", (PyCFunction)(void (*)(void))Stepper_step, METH_FASTCALL | METH_KEYWORDS,
     "step($self, x, out=None)\n--\n\nFeed one frame and give the output, in `out` where given."},
    {"_locked", Stepper_locked, METH_NOARGS, NULL},
    {"__enter__", Stepper_enter, METH_NOARGS, NULL},
    {"__exit__", Stepper_exit, METH_VARARGS, NULL},
    {"_advance", Stepper_advance, METH_NOARGS, NULL},
    {"_bind", Stepper_bind, METH_VARARGS, NULL},
    {"_share", Stepper_share, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef members[] = {
    {"_frames", T_LONGLONG, offsetof(Stepper, frames), 0, NULL},
    {"_pending", T_OBJECT, offsetof(Stepper, pending), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef computed[] = {{"_turn", Stepper_turn, NULL, NULL, NULL}, {NULL, NULL, NULL, NULL, NULL}};

static PyType_Slot slots[] = {
    {Py_tp_dealloc, Stepper_dealloc}, {Py_tp_traverse, Stepper_traverse}, {Py_tp_clear, Stepper_clear},
    {Py_tp_methods, methods}, {Py_tp_members, members}, {Py_tp_getset, computed}, {0, NULL},
};

static PyType_Spec stepper = {
    .name = "native.Stepper",
    .basicsize = sizeof(Stepper),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = slots,
};

static int start(PyObject *module)
{
    import_array1(-1);
    if (!ANY_STEP && !(ANY_STEP = PyUnicode_InternFromString("_any_step"))) return -1;
    if (!BUSY && !(BUSY = PyUnicode_InternFromString("_busy"))) return -1;
    if (!OUT && !(OUT = PyUnicode_InternFromString("out"))) return -1;
    PyObject *type = PyType_FromModuleAndSpec(module, &stepper, NULL);
    if (!type) return -1;
    int failed = PyModule_AddType(module, (PyTypeObject *)type);
    Py_DECREF(type);
    return failed;
}

static PyModuleDef_Slot module_slots[] = {{Py_mod_exec, start}, {0, NULL}};
static PyModuleDef module = {PyModuleDef_HEAD_INIT, .m_name = "native", .m_slots = module_slots};

__attribute__((visibility("default"))) PyObject *PyInit_native(void) { return PyModuleDef_Init(&module); }

/* The kernels of mvc.codecs, compiled. Meaning, order of arguments and bytes are those of reference.py.
 *
 * Every function checks the length of every buffer before it touches one, raises ValueError if they disagree, and runs
 * without the GIL. Nothing is kept between calls. Needs a little-endian machine; without it the NumPy reference runs.
 */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if !defined(__BYTE_ORDER__) || __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the compiled kernels need a little-endian machine; the NumPy reference will be used"
#endif

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#define VECTOR_LANES
#endif

/* One copy of a loop for each generation of vector units, picked when the module is loaded. It needs GNU ifunc, which
 * musl and macOS do not have; there the baseline is compiled. So it is under sanitizers (`make sanitize`), which start
 * after the loader has called the functions that pick. */
#if defined(__x86_64__) && !defined(MVC_NO_CLONES) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12
#define CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define CLONES
#endif

#define MAX_WORD_BYTES 8
#define TILE 1024                 /* words worked on at a time: 8 KiB at most, well inside the first-level cache */
#define ROW_BLOCK 128             /* words, of which the first few may speak for all */
#define MAX_WORDS ((size_t)1 << 24) /* words of a frame (spec-v1, section 1): positions fit u32 */

typedef struct {
    int word_bytes, exponent_bits, mantissa_bits;
} number_t;

/* Bit length of a number of at most 32 bits, in a form that compilers turn into vector code: the exponent of the number
 * as a float. Clearing the bit below the leading one keeps rounding from reaching the next power of two. */
static inline uint32_t bit_length32(uint32_t x)
{
    union {
        float number;
        uint32_t bits;
    } value;
    value.number = (float)(x & ~(x >> 1));
    uint32_t biased = value.bits >> 23;
    return biased ? biased - 126 : 0;
}

static inline uint32_t bit_length64(uint64_t x)
{
    return x ? 64 - (uint32_t)__builtin_clzll(x) : 0;
}

/* Largest value of r + 2 (E - e) that is told apart (spec-v1, section 6.4). */
static inline uint16_t key_cap(int mantissa)
{
    uint32_t cap = ((uint32_t)1 << (16 - mantissa)) - 1;
    return (uint16_t)(cap < 1023 ? cap : 1023);
}

/* Raw bits of a word, by its symbol (spec-v1, section 6.5, step 2). */
static inline uint32_t raw_bits(uint32_t symbol)
{
    return symbol < 16 ? 0 : (symbol >> 2) - 2;
}

/* A stream of bits that is being written. */
typedef struct {
    uint8_t *next;
    uint64_t waiting;
    uint32_t count; /* bits waiting */
} stream_t;

#ifdef VECTOR_LANES
static int vectors_help(void)
{
    return __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
}

/* The places of raw_places among the first n - n % 16 words. */
__attribute__((target("avx512f,avx512bw,avx512vl"))) static size_t raw_places_vectors(const uint8_t *symbols, size_t n,
                                                                                     uint16_t *places)
{
    const __m128i fifteen = _mm_set1_epi8(15);
    const __m512i step = _mm512_set1_epi32(16);
    __m512i place = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    size_t count = 0;
    for (size_t i = 0; i + 16 <= n; i += 16, place = _mm512_add_epi32(place, step)) {
        __mmask16 raw = _mm_cmpgt_epu8_mask(_mm_loadu_si128((const __m128i *)(symbols + i)), fifteen);
        __m256i found = _mm512_cvtepi32_epi16(_mm512_maskz_compress_epi32(raw, place));
        _mm256_storeu_si256((__m256i *)(places + count), found); /* count <= i: there is room for 16 */
        count += (size_t)__builtin_popcount(raw);
    }
    return count;
}
#endif

/* Where words with raw bits lie among the n <= TILE of a tile; returns how many there are. */
static size_t raw_places(const uint8_t *symbols, size_t n, uint16_t *places)
{
    size_t count = 0, i = 0;
#ifdef VECTOR_LANES
    if (vectors_help()) {
        count = raw_places_vectors(symbols, n, places);
        i = n & ~(size_t)15;
    }
#endif
    for (; i < n; i++) {
        places[count] = (uint16_t)i;
        count += symbols[i] >= 16;
    }
    return count;
}

/* At least 56 bits of a stream from bit `place` on; zeros behind its end. */
static inline uint64_t load_bits(const uint8_t *stream, size_t nbytes, size_t place)
{
    size_t at = place >> 3;
    uint64_t window = 0;
    if (at + 8 <= nbytes)
        memcpy(&window, stream + at, 8);
    else if (at < nbytes)
        memcpy(&window, stream + at, nbytes - at);
    return window >> (place & 7);
}

static CLONES size_t largest_key(const uint16_t *keys, size_t n)
{
    uint16_t largest = 0;
    for (size_t i = 0; i < n; i++)
        largest = keys[i] > largest ? keys[i] : largest;
    return largest;
}

/* For each key, the place of its first word in the order of the keys; NULL if memory is short. */
static uint32_t *first_places(const uint16_t *keys, size_t n)
{
    const size_t count = largest_key(keys, n) + 1;
    uint32_t *even = calloc(2 * count, sizeof(uint32_t));
    if (even == NULL)
        return NULL;
    uint32_t *odd = even + count; /* two tables: neighbours often share a key, and would wait for each other */
    for (size_t i = 0; i + 1 < n; i += 2) {
        even[keys[i]]++;
        odd[keys[i + 1]]++;
    }
    if (n % 2)
        even[keys[n - 1]]++;
    uint32_t place = 0;
    for (size_t key = 0; key < count; key++) {
        uint32_t words = even[key] + odd[key];
        even[key] = place;
        place += words;
    }
    return even;
}

static CLONES uint32_t largest_size(const uint32_t *sizes, size_t n, uint32_t most)
{
    for (size_t i = 0; i < n; i++)
        most = sizes[i] > most ? sizes[i] : most;
    return most;
}

/* Sum of 2^(16 - k/2) over n <= TILE words, where k is by how much their sizes lie below `top`; a size of 0 weighs 0. */
static CLONES uint32_t tile_weight(const uint32_t *sizes, size_t n, uint32_t top)
{
    uint32_t sum = 0; /* TILE * 2^16 fits */
    for (size_t i = 0; i < n; i++) {
        uint32_t below = sizes[i] ? top - sizes[i] : 40;
        below = below < 40 ? below : 40; /* 2^16 >> 20 is 0 */
        sum += (65536u - (below & 1) * (65536u - 46341u)) >> (below >> 1);
    }
    return sum;
}

#define BITS 8
#include "_words.h"
#define BITS 16
#include "_words.h"
#define BITS 32
#include "_words.h"
#define BITS 64
#include "_words.h"

#include "_rans.h"
#include "_contexts.h"
#include "_classes.h"

#define BITS 8
#include "_sparse.h"
#define BITS 16
#include "_sparse.h"
#define BITS 32
#include "_sparse.h"
#define BITS 64
#include "_sparse.h"

#define FOR_WIDTH(word_bytes, name, arguments) \
    do {                                       \
        switch (word_bytes) {                  \
        case 1: name##8 arguments; break;      \
        case 2: name##16 arguments; break;     \
        case 4: name##32 arguments; break;     \
        default: name##64 arguments; break;    \
        }                                      \
    } while (0)

/* ---- checks -------------------------------------------------------------------------------------------------- */

typedef struct {
    Py_buffer view[MAX_WORD_BYTES];
    uint8_t *start[MAX_WORD_BYTES];
    int count; /* 1, 2, 4 or 8 when all is well; views 0..count-1 are held */
} planes_t;

static int fail(const char *message)
{
    PyErr_SetString(PyExc_ValueError, message);
    return -1;
}

static void release(Py_buffer *const *buffers, size_t count)
{
    for (size_t k = 0; k < count; k++)
        PyBuffer_Release(buffers[k]);
}

static int aligned(const Py_buffer *buffer, size_t size)
{
    return (size_t)buffer->len % size == 0 && (uintptr_t)buffer->buf % size == 0;
}

static CLONES size_t greatest(const uint8_t *bytes, size_t n)
{
    uint8_t most = 0;
    for (size_t i = 0; i < n; i++)
        most = bytes[i] > most ? bytes[i] : most;
    return most;
}

static void planes_release(planes_t *planes)
{
    for (int k = 0; k < planes->count; k++)
        PyBuffer_Release(&planes->view[k]);
    planes->count = 0;
}

/* Take the P planes of `sequence`, which must be of one length each. */
static int planes_take(PyObject *sequence, int flags, planes_t *planes)
{
    planes->count = 0;
    Py_ssize_t count = PySequence_Size(sequence);
    if (count < 0)
        return -1;
    if (count != 1 && count != 2 && count != 4 && count != 8)
        return fail("there must be 1, 2, 4 or 8 planes");
    for (Py_ssize_t k = 0; k < count; k++) {
        PyObject *item = PySequence_GetItem(sequence, k);
        int failed = item == NULL || PyObject_GetBuffer(item, &planes->view[k], flags) < 0;
        Py_XDECREF(item); /* the view keeps the object */
        if (failed) {
            planes_release(planes);
            return -1;
        }
        planes->start[k] = planes->view[k].buf;
        planes->count++;
        if (planes->view[k].len != planes->view[0].len) {
            planes_release(planes);
            return fail("planes differ in length");
        }
    }
    return 0;
}

static int number_check(number_t number)
{
    int bits = 8 * number.word_bytes;
    if (number.word_bytes != 1 && number.word_bytes != 2 && number.word_bytes != 4 && number.word_bytes != 8)
        return fail("a word has 1, 2, 4 or 8 bytes");
    if (number.exponent_bits == 0 && number.mantissa_bits == 0)
        return 0;
    if (number.exponent_bits < 1 || number.exponent_bits > 11 || number.mantissa_bits < 0 ||
        number.exponent_bits + number.mantissa_bits != bits - 1)
        return fail("the fields of a float must fill its word");
    return 0;
}

/* Check words, rows and mantissa against each other; the number of words, or 0 with an exception set. */
static size_t frame_check(number_t number, Py_ssize_t nbytes, Py_ssize_t row_words, Py_ssize_t rows, int mantissa)
{
    if (number_check(number) < 0)
        return 0;
    size_t words = (size_t)nbytes / (size_t)number.word_bytes;
    if (words == 0 || words > MAX_WORDS || words * (size_t)number.word_bytes != (size_t)nbytes)
        fail("a frame has 1 to 2^24 whole words");
    else if (row_words < 1 || (size_t)rows != (words - 1) / (size_t)row_words + 1)
        fail("rows do not cover the frame");
    else if (mantissa < 0 || mantissa > 7 || mantissa > number.mantissa_bits)
        fail("mantissa out of range");
    else
        return words;
    return 0;
}

/* Scratch memory holds the keys and then the sorted words. */
static int scratch_check(const Py_buffer *scratch, size_t n, number_t number)
{
    const size_t needed = n * ((size_t)number.word_bytes + sizeof(uint16_t));
    if ((size_t)scratch->len < needed || (uintptr_t)scratch->buf % sizeof(uint16_t))
        return fail("scratch memory is too small or not aligned");
    return 0;
}

/* ---- planes -------------------------------------------------------------------------------------------------- */

PyDoc_STRVAR(split_doc, "split(words, planes, rotate)\n--\n\nSee reference.split.");

static PyObject *split(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer words;
    PyObject *sequence;
    int rotate;
    planes_t planes;
    if (!PyArg_ParseTuple(args, "y*Op:split", &words, &sequence, &rotate))
        return NULL;
    if (planes_take(sequence, PyBUF_WRITABLE, &planes) < 0) {
        PyBuffer_Release(&words);
        return NULL;
    }
    size_t n = (size_t)planes.view[0].len;
    int good = n * (size_t)planes.count == (size_t)words.len;
    if (good) {
        Py_BEGIN_ALLOW_THREADS
        FOR_WIDTH(planes.count, split_, (words.buf, planes.start, n, rotate));
        Py_END_ALLOW_THREADS
    } else {
        fail("planes and words differ in size");
    }
    planes_release(&planes);
    PyBuffer_Release(&words);
    return good ? Py_NewRef(Py_None) : NULL;
}

PyDoc_STRVAR(join_doc, "join(planes, words, rotate)\n--\n\nSee reference.join.");

static PyObject *join(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer words;
    PyObject *sequence;
    int rotate;
    planes_t planes;
    if (!PyArg_ParseTuple(args, "Ow*p:join", &sequence, &words, &rotate))
        return NULL;
    if (planes_take(sequence, PyBUF_SIMPLE, &planes) < 0) {
        PyBuffer_Release(&words);
        return NULL;
    }
    size_t n = (size_t)planes.view[0].len;
    int good = n * (size_t)planes.count == (size_t)words.len;
    if (good) {
        Py_BEGIN_ALLOW_THREADS
        FOR_WIDTH(planes.count, join_, ((const uint8_t *const *)planes.start, words.buf, n, rotate));
        Py_END_ALLOW_THREADS
    } else {
        fail("planes and words differ in size");
    }
    planes_release(&planes);
    PyBuffer_Release(&words);
    return good ? Py_NewRef(Py_None) : NULL;
}

/* ---- bytes --------------------------------------------------------------------------------------------------- */

PyDoc_STRVAR(concatenate_doc, "concatenate(pieces)\n--\n\nSee reference.concatenate.");

/* Take the buffers of `count` pieces; their total length, or -1 with an exception set and none taken. */
static Py_ssize_t pieces_take(PyObject *sequence, Py_ssize_t count, Py_buffer *views)
{
    Py_ssize_t total = 0;
    for (Py_ssize_t k = 0; k < count; k++) {
        PyObject *piece = PySequence_GetItem(sequence, k);
        const int taken = piece != NULL && PyObject_GetBuffer(piece, views + k, PyBUF_SIMPLE) == 0;
        Py_XDECREF(piece);
        if (!taken || views[k].len > PY_SSIZE_T_MAX - total) {
            if (taken)
                fail("the pieces are too long");
            for (Py_ssize_t i = 0; i < k + taken; i++)
                PyBuffer_Release(views + i);
            return -1;
        }
        total += views[k].len;
    }
    return total;
}

static PyObject *concatenate(PyObject *Py_UNUSED(module), PyObject *sequence)
{
    const Py_ssize_t count = PySequence_Size(sequence);
    if (count < 0)
        return NULL;
    Py_buffer *views = PyMem_Calloc((size_t)count + 1, sizeof *views);
    if (views == NULL)
        return PyErr_NoMemory();
    const Py_ssize_t total = pieces_take(sequence, count, views);
    PyObject *joined = total < 0 ? NULL : PyBytes_FromStringAndSize(NULL, total);
    if (joined != NULL) {
        char *out = PyBytes_AsString(joined); /* nobody else knows the object yet */
        Py_BEGIN_ALLOW_THREADS
        for (Py_ssize_t k = 0; k < count; k++) {
            memcpy(out, views[k].buf, (size_t)views[k].len);
            out += views[k].len;
        }
        Py_END_ALLOW_THREADS
    }
    for (Py_ssize_t k = 0; total >= 0 && k < count; k++)
        PyBuffer_Release(views + k);
    PyMem_Free(views);
    return joined;
}

/* ---- deltas -------------------------------------------------------------------------------------------------- */

PyDoc_STRVAR(measure_doc, "measure(target, base, number, row_words, measured, u, sizes)\n--\n\nSee reference.measure.");

static PyObject *measure(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer target, base, u, sizes;
    Py_buffer *const buffers[] = {&target, &base, &u, &sizes};
    Py_ssize_t row_words, measured;
    number_t number;
    if (!PyArg_ParseTuple(args, "y*y*(iii)nnw*w*:measure", &target, &base, &number.word_bytes, &number.exponent_bits,
                          &number.mantissa_bits, &row_words, &measured, &u, &sizes))
        return NULL;
    size_t n = frame_check(number, target.len, row_words, sizes.len / 16, 0);
    if (n && (base.len != target.len || u.len != target.len || sizes.len % 16 || (uintptr_t)sizes.buf % 8 ||
              measured < 0 || measured > ROW_BLOCK)) {
        fail("target, base and deltas differ in size, or more than all words are measured");
        n = 0;
    }
    if (n) {
        Py_BEGIN_ALLOW_THREADS
        FOR_WIDTH(number.word_bytes, measure_,
                  (target.buf, base.buf, u.buf, n, (size_t)row_words, (size_t)measured, number, (int64_t *)sizes.buf));
        Py_END_ALLOW_THREADS
    }
    release(buffers, 4);
    return n ? Py_NewRef(Py_None) : NULL;
}

PyDoc_STRVAR(sort_doc, "sort(u, base, number, rows, row_words, mantissa, planes, scratch)\n--\n\nSee reference.sort.");

static PyObject *sort(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer u, base, rows, scratch;
    Py_buffer *const buffers[] = {&u, &base, &rows, &scratch};
    PyObject *sequence;
    Py_ssize_t row_words;
    number_t number;
    int mantissa, status = 0;
    planes_t planes;
    if (!PyArg_ParseTuple(args, "y*y*(iii)y*niOw*:sort", &u, &base, &number.word_bytes, &number.exponent_bits,
                          &number.mantissa_bits, &rows, &row_words, &mantissa, &sequence, &scratch))
        return NULL;
    size_t n = planes_take(sequence, PyBUF_WRITABLE, &planes) < 0
                   ? 0
                   : frame_check(number, base.len, row_words, rows.len, mantissa);
    if (n && (u.len != base.len || (size_t)planes.view[0].len != n || planes.count != number.word_bytes)) {
        fail("deltas, base and planes differ in size");
        n = 0;
    }
    if (n && scratch_check(&scratch, n, number) < 0)
        n = 0;
    if (n) {
        Py_BEGIN_ALLOW_THREADS
        uint16_t *keys = scratch.buf;
        uint8_t *sorted = (uint8_t *)(keys + n);
        FOR_WIDTH(number.word_bytes, keys_, (base.buf, rows.buf, keys, n, (size_t)row_words, number, mantissa));
        uint32_t *next = first_places(keys, n);
        if (next != NULL) {
            FOR_WIDTH(number.word_bytes, scatter_, (u.buf, keys, next, sorted, n));
            FOR_WIDTH(number.word_bytes, split_, (sorted, planes.start, n, 0));
        }
        status = next == NULL ? -1 : 0;
        free(next);
        Py_END_ALLOW_THREADS
        if (status < 0)
            PyErr_NoMemory();
    }
    planes_release(&planes);
    release(buffers, 4);
    return n && status == 0 ? Py_NewRef(Py_None) : NULL;
}

PyDoc_STRVAR(unsort_doc,
             "unsort(planes, base, number, rows, row_words, mantissa, target, scratch)\n--\n\nSee reference.unsort.");

static PyObject *unsort(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer target, base, rows, scratch;
    Py_buffer *const buffers[] = {&target, &base, &rows, &scratch};
    PyObject *sequence;
    Py_ssize_t row_words;
    number_t number;
    int mantissa, status = 0;
    planes_t planes;
    if (!PyArg_ParseTuple(args, "Oy*(iii)y*niw*w*:unsort", &sequence, &base, &number.word_bytes, &number.exponent_bits,
                          &number.mantissa_bits, &rows, &row_words, &mantissa, &target, &scratch))
        return NULL;
    size_t n = planes_take(sequence, PyBUF_SIMPLE, &planes) < 0
                   ? 0
                   : frame_check(number, base.len, row_words, rows.len, mantissa);
    if (n && (target.len != base.len || (size_t)planes.view[0].len != n || planes.count != number.word_bytes)) {
        fail("planes, base and target differ in size");
        n = 0;
    }
    if (n && scratch_check(&scratch, n, number) < 0)
        n = 0;
    if (n) {
        Py_BEGIN_ALLOW_THREADS
        uint16_t *keys = scratch.buf;
        uint8_t *sorted = (uint8_t *)(keys + n);
        FOR_WIDTH(number.word_bytes, keys_, (base.buf, rows.buf, keys, n, (size_t)row_words, number, mantissa));
        uint32_t *next = first_places(keys, n);
        if (next != NULL) {
            FOR_WIDTH(number.word_bytes, join_, ((const uint8_t *const *)planes.start, sorted, n, 0));
            FOR_WIDTH(number.word_bytes, gather_,
                      (sorted, base.buf, keys, next, target.buf, n, number.exponent_bits > 0));
        }
        status = next == NULL ? -1 : 0;
        free(next);
        Py_END_ALLOW_THREADS
        if (status < 0)
            PyErr_NoMemory();
    }
    planes_release(&planes);
    release(buffers, 4);
    return n && status == 0 ? Py_NewRef(Py_None) : NULL;
}

#include "_context.h"
#include "_tables.h"
#include "_survey.h"
#include "_stripes.h"
#include "_foretell.h"
#include "_sparse_module.h"

/* ---- module -------------------------------------------------------------------------------------------------- */

static PyMethodDef methods[] = {
    {"split", split, METH_VARARGS, split_doc},
    {"join", join, METH_VARARGS, join_doc},
    {"concatenate", concatenate, METH_O, concatenate_doc},
    {"measure", measure, METH_VARARGS, measure_doc},
    {"sort", sort, METH_VARARGS, sort_doc},
    {"unsort", unsort, METH_VARARGS, unsort_doc},
    {"count_keys", count_keys, METH_VARARGS, count_keys_doc},
    {"classify", classify, METH_VARARGS, classify_doc},
    {"context_encode", context_encode, METH_VARARGS, context_encode_doc},
    {"context_decode", context_decode, METH_VARARGS, context_decode_doc},
    {"tables", tables, METH_VARARGS, tables_doc},
    {"frequencies", frequencies, METH_VARARGS, frequencies_doc},
    {"survey", survey, METH_VARARGS, survey_doc},
    {"stripe_plan", stripe_plan, METH_VARARGS, stripe_plan_doc},
    {"stripe_encode", stripe_encode, METH_VARARGS, stripe_encode_doc},
    {"stripe_decode", stripe_decode, METH_VARARGS, stripe_decode_doc},
    {"foretell", foretell, METH_VARARGS, foretell_doc},
    {"foretold_decode", foretold_decode, METH_VARARGS, foretold_decode_doc},
    {"changes", changes, METH_VARARGS, changes_doc},
    {"exponent", exponent, METH_VARARGS, exponent_doc},
    {"gaps", gaps, METH_VARARGS, gaps_doc},
    {"locate", locate, METH_VARARGS, locate_doc},
    {"patch", patch, METH_VARARGS, patch_doc},
    {"pack", pack, METH_VARARGS, pack_doc},
    {"unpack", unpack, METH_VARARGS, unpack_doc},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef_Slot slots[] = {{0, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_native", "Compiled kernels; see mvc.codecs.kernels.reference.", 0, methods, slots,
    NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__native(void)
{
    return PyModuleDef_Init(&definition);
}

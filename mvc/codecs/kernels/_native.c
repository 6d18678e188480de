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

#define BITS 8
#include "_words.h"
#define BITS 16
#include "_words.h"
#define BITS 32
#include "_words.h"
#define BITS 64
#include "_words.h"

/* ---- sparse deltas: loops ------------------------------------------------------------------------------------ */

static CLONES size_t largest_position(const uint32_t *positions, size_t count)
{
    uint32_t largest = 0;
    for (size_t k = 0; k < count; k++)
        largest = positions[k] > largest ? positions[k] : largest;
    return largest;
}

#define CLASSES 8
#define MAX_EXPONENT 2047 /* that of fp64 */
#define EACH_TOP_BIT 0x8080808080808080u
#define STEP 64 /* words looked through at a time; must be below 128, for counters are bytes with a bit to spare */

static const volatile uint64_t ONE = 1; /* GCC 12 makes vector code of the shift of a variable, not of a constant */

/* The number of words of each class, a byte for each class; n is below 256. */
static inline uint64_t class_counts(const uint8_t *shifts, size_t n)
{
    const uint64_t one = ONE;
    uint64_t counts = 0;
    for (size_t i = 0; i < n; i++)
        counts += one << shifts[i];
    return counts;
}

/* The top bit of each of 8 bytes that equals `shift`; all are below 128. */
static inline uint64_t equal_bytes(const uint8_t *shifts, int shift)
{
    uint64_t x;
    memcpy(&x, shifts, 8);
    x ^= 0x0101010101010101u * (uint64_t)shift;
    return ~(x + ~EACH_TOP_BIT) & EACH_TOP_BIT;
}

/* How many of the n words are of the class of `shift`. What lies behind them, up to a multiple of 8, is not counted. */
static inline uint32_t class_count(const uint8_t *shifts, size_t n, int shift)
{
    uint32_t count = 0;
    size_t i = 0;
    for (; n - i >= 8; i += 8)
        count += (uint32_t)__builtin_popcountll(equal_bytes(shifts + i, shift));
    const uint64_t first = ((uint64_t)1 << (8 * (n - i))) - 1;
    return count + (uint32_t)__builtin_popcountll(equal_bytes(shifts + i, shift) & first);
}

/* Write the gaps and classes of the changed words among the m words from `start` on, beginning with change k; the next k.
 * `seen` counts the words of each class in earlier steps, `last` those up to its last changed one. */
static CLONES size_t tile_gaps(const uint8_t *shifts, size_t start, size_t m, const uint32_t *positions, size_t k,
                               size_t count, uint32_t *gaps, uint8_t *classes, uint32_t *seen, uint32_t *last)
{
    for (size_t at = 0; at < m; at += STEP) {
        const size_t n = m - at < STEP ? m - at : STEP, end = start + at + n;
        for (; k < count && positions[k] < end; k++) {
            const size_t here = positions[k] - start;
            const int shift = shifts[here], c = shift / 8;
            const uint32_t before = seen[c] + class_count(shifts + at, here - at, shift);
            gaps[k] = before - last[c];
            classes[k] = (uint8_t)c;
            last[c] = before + 1;
        }
        const uint64_t counts = n == STEP ? class_counts(shifts + at, STEP) : class_counts(shifts + at, n);
        for (int c = 0; c < CLASSES; c++)
            seen[c] += (uint8_t)(counts >> (8 * c));
    }
    return k;
}

/* Walks over the classes of words and stops at those that a gap leads to. For each class, `left` words are to be passed
 * over; byte c of `now` counts them down, beginning at 128 + min(left, 127) in `start`, and has no top bit once the word
 * that is looked for, or word 128, is passed. */
typedef struct {
    const uint32_t *gap[CLASSES], *end[CLASSES];
    uint32_t *position[CLASSES];
    uint32_t left[CLASSES];
    uint64_t start, now;
    size_t missing; /* changed words that are still to be found */
} finder_t;

static inline uint64_t saturated(uint32_t left)
{
    return 0x80u | (left < 127 ? left : 127);
}

static inline uint32_t next_gap(const finder_t *finder, int c)
{
    return finder->gap[c] < finder->end[c] ? *finder->gap[c] : UINT32_MAX; /* more words than a frame has */
}

static void finder_start(finder_t *finder, const uint32_t *counts, const uint32_t *gaps, uint32_t *positions)
{
    finder->start = finder->now = 0;
    finder->missing = 0;
    for (int c = 0; c < CLASSES; c++) {
        finder->gap[c] = gaps + finder->missing;
        finder->position[c] = positions + finder->missing;
        finder->missing += counts[c];
        finder->end[c] = gaps + finder->missing;
        finder->left[c] = next_gap(finder, c);
        finder->start |= saturated(finder->left[c]) << (8 * c);
    }
    finder->now = finder->start;
}

/* Take what was counted down off `left`, and begin again. */
static inline void finder_refill(finder_t *finder)
{
    const uint64_t passed = finder->start - finder->now;
    finder->start = 0;
    for (int c = 0; c < CLASSES; c++) {
        finder->left[c] -= (uint8_t)(passed >> (8 * c));
        finder->start |= saturated(finder->left[c]) << (8 * c);
    }
    finder->now = finder->start;
}

/* Write the places of class c that gaps lead to among words of which `count` are of that class. Never looks behind the
 * last of them, but for the rest of 8 bytes. */
static inline void finder_take(finder_t *finder, const uint8_t *shifts, int c, uint32_t count, uint32_t first)
{
    uint64_t rank = finder->left[c], members = equal_bytes(shifts, 8 * c), before = 0;
    while (rank < count) {
        while (rank - before >= (uint64_t)__builtin_popcountll(members)) {
            before += (uint64_t)__builtin_popcountll(members);
            shifts += 8;
            first += 8;
            members = equal_bytes(shifts, 8 * c);
        }
        uint64_t rest = members;
        for (uint64_t skip = rank - before; skip; skip--)
            rest &= rest - 1;
        *finder->position[c]++ = first + (uint32_t)__builtin_ctzll(rest) / 8;
        finder->gap[c]++;
        finder->missing--;
        rank += 1 + (uint64_t)next_gap(finder, c);
    }
    finder->left[c] = (uint32_t)(rank - count);
}

/* Pass over n <= STEP words, the first of which is word `first` of the frame. */
static inline void finder_step(finder_t *finder, const uint8_t *shifts, size_t n, uint32_t first)
{
    const uint64_t counts = class_counts(shifts, n);
    if (((finder->now - counts) & EACH_TOP_BIT) == EACH_TOP_BIT) {
        finder->now -= counts;
        return;
    }
    finder_refill(finder);
    uint64_t hits = ~(finder->now - counts) & EACH_TOP_BIT;
    finder->now -= counts;
    for (; hits; hits &= hits - 1) {
        const int shift = __builtin_ctzll(hits) & ~7, c = shift / 8;
        finder_take(finder, shifts, c, (uint8_t)(counts >> shift), first);
        const uint64_t byte = saturated(finder->left[c]) << shift, others = ~((uint64_t)0xFF << shift);
        finder->start = (finder->start & others) | byte;
        finder->now = (finder->now & others) | byte;
    }
}

static CLONES void finder_tile(finder_t *finder, const uint8_t *shifts, size_t start, size_t m)
{
    size_t at = 0;
    for (; m - at >= STEP; at += STEP)
        finder_step(finder, shifts + at, STEP, (uint32_t)(start + at));
    finder_step(finder, shifts + at, m - at, (uint32_t)(start + at));
}

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

/* ---- deltas -------------------------------------------------------------------------------------------------- */

PyDoc_STRVAR(measure_doc, "measure(target, base, number, row_words, u, sums)\n--\n\nSee reference.measure.");

static PyObject *measure(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer target, base, u, sums;
    Py_ssize_t row_words;
    number_t number;
    if (!PyArg_ParseTuple(args, "y*y*(iii)nw*w*:measure", &target, &base, &number.word_bytes, &number.exponent_bits,
                          &number.mantissa_bits, &row_words, &u, &sums))
        return NULL;
    size_t n = frame_check(number, target.len, row_words, sums.len / 8, 0);
    if (n && (base.len != target.len || u.len != target.len || sums.len % 8 || (uintptr_t)sums.buf % 8)) {
        fail("target, base and deltas differ in size");
        n = 0;
    }
    if (n) {
        Py_BEGIN_ALLOW_THREADS
        FOR_WIDTH(number.word_bytes, measure_,
                  (target.buf, base.buf, u.buf, n, (size_t)row_words, number, (int64_t *)sums.buf));
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&target);
    PyBuffer_Release(&base);
    PyBuffer_Release(&u);
    PyBuffer_Release(&sums);
    return n ? Py_NewRef(Py_None) : NULL;
}

PyDoc_STRVAR(sort_doc, "sort(u, base, number, rows, row_words, mantissa, planes, scratch)\n--\n\nSee reference.sort.");

static PyObject *sort(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer u, base, rows, scratch;
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
    PyBuffer_Release(&u);
    PyBuffer_Release(&base);
    PyBuffer_Release(&rows);
    PyBuffer_Release(&scratch);
    return n && status == 0 ? Py_NewRef(Py_None) : NULL;
}

PyDoc_STRVAR(unsort_doc,
             "unsort(planes, base, number, rows, row_words, mantissa, target, scratch)\n--\n\nSee reference.unsort.");

static PyObject *unsort(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer target, base, rows, scratch;
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
    PyBuffer_Release(&base);
    PyBuffer_Release(&rows);
    PyBuffer_Release(&target);
    PyBuffer_Release(&scratch);
    return n && status == 0 ? Py_NewRef(Py_None) : NULL;
}

/* ---- sparse deltas ------------------------------------------------------------------------------------------- */

/* Check a frame of `target` and `base` and room for changes; the number of words, or 0 with an exception set. */
static size_t sparse_check(const Py_buffer *target, const Py_buffer *base, number_t number, const Py_buffer *positions,
                           const Py_buffer *deltas)
{
    size_t n = frame_check(number, base->len, PY_SSIZE_T_MAX, 1, 0);
    if (n == 0)
        return 0;
    if (target->len != base->len)
        fail("target and base differ in size");
    else if (positions->len % 4 || (uintptr_t)positions->buf % 4 ||
             deltas->len / number.word_bytes != positions->len / 4 || deltas->len % number.word_bytes)
        fail("positions and deltas differ in number, or are not aligned");
    else
        return n;
    return 0;
}

PyDoc_STRVAR(changes_doc, "changes(target, base, number, positions, deltas)\n--\n\nSee reference.changes.");

static PyObject *changes(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer target, base, positions, deltas;
    number_t number;
    size_t count = SIZE_MAX;
    if (!PyArg_ParseTuple(args, "y*y*(iii)w*w*:changes", &target, &base, &number.word_bytes, &number.exponent_bits,
                          &number.mantissa_bits, &positions, &deltas))
        return NULL;
    const size_t n = sparse_check(&target, &base, number, &positions, &deltas);
    if (n) {
        const size_t most = (size_t)positions.len / 4;
        Py_BEGIN_ALLOW_THREADS
        FOR_WIDTH(number.word_bytes, count = changes_,
                  (target.buf, base.buf, n, number.exponent_bits > 0, positions.buf, deltas.buf, most));
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&target);
    PyBuffer_Release(&base);
    PyBuffer_Release(&positions);
    PyBuffer_Release(&deltas);
    return n ? PyLong_FromSsize_t(count == SIZE_MAX ? -1 : (Py_ssize_t)count) : NULL;
}

/* 1 if `view` holds `count` aligned numbers of 32 bits. */
static int numbers_fit(const Py_buffer *view, size_t count)
{
    return (uint64_t)view->len == 4 * (uint64_t)count && (uintptr_t)view->buf % 4 == 0;
}

PyDoc_STRVAR(gaps_doc, "gaps(base, number, top, positions, gaps, classes)\n--\n\nSee reference.gaps.");

static int ascend(const uint32_t *positions, size_t count, size_t n)
{
    for (size_t k = 0; k < count; k++)
        if (positions[k] >= n || (k && positions[k] <= positions[k - 1]))
            return 0;
    return 1;
}

static PyObject *gaps(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer base, positions, found, classes;
    number_t number;
    int top;
    if (!PyArg_ParseTuple(args, "y*(iii)iy*w*w*:gaps", &base, &number.word_bytes, &number.exponent_bits,
                          &number.mantissa_bits, &top, &positions, &found, &classes))
        return NULL;
    size_t n = frame_check(number, base.len, PY_SSIZE_T_MAX, 1, 0);
    const size_t count = (size_t)classes.len;
    if (n && (top < 0 || top > MAX_EXPONENT || !numbers_fit(&positions, count) || !numbers_fit(&found, count) ||
              !ascend(positions.buf, count, n))) {
        fail("positions, gaps and classes differ in number, or a value is out of range");
        n = 0;
    }
    if (n) {
        Py_BEGIN_ALLOW_THREADS
        FOR_WIDTH(number.word_bytes, gaps_,
                  (base.buf, n, number, top, positions.buf, count, found.buf, classes.buf));
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&base);
    PyBuffer_Release(&positions);
    PyBuffer_Release(&found);
    PyBuffer_Release(&classes);
    return n ? Py_NewRef(Py_None) : NULL;
}

PyDoc_STRVAR(locate_doc, "locate(base, number, top, counts, gaps, positions)\n--\n\nSee reference.locate.");

static PyObject *locate(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer base, counts, lengths, positions;
    number_t number;
    int top, complete = 0;
    if (!PyArg_ParseTuple(args, "y*(iii)iy*y*w*:locate", &base, &number.word_bytes, &number.exponent_bits,
                          &number.mantissa_bits, &top, &counts, &lengths, &positions))
        return NULL;
    size_t n = frame_check(number, base.len, PY_SSIZE_T_MAX, 1, 0);
    const size_t count = (size_t)lengths.len / 4;
    uint64_t stated = 0;
    if (n && numbers_fit(&counts, CLASSES))
        for (int c = 0; c < CLASSES; c++)
            stated += ((const uint32_t *)counts.buf)[c];
    if (n && (top < 0 || top > MAX_EXPONENT || !numbers_fit(&counts, CLASSES) || stated != count ||
              !numbers_fit(&lengths, count) || !numbers_fit(&positions, count))) {
        fail("counts, gaps and positions differ in number, or a value is out of range");
        n = 0;
    }
    if (n) {
        Py_BEGIN_ALLOW_THREADS
        FOR_WIDTH(number.word_bytes, complete = locate_,
                  (base.buf, n, number, top, counts.buf, lengths.buf, positions.buf));
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&base);
    PyBuffer_Release(&counts);
    PyBuffer_Release(&lengths);
    PyBuffer_Release(&positions);
    return n ? PyBool_FromLong(complete) : NULL;
}

PyDoc_STRVAR(patch_doc, "patch(base, number, positions, deltas, target)\n--\n\nSee reference.patch.");

static PyObject *patch(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer target, base, positions, deltas;
    number_t number;
    if (!PyArg_ParseTuple(args, "y*(iii)y*y*w*:patch", &base, &number.word_bytes, &number.exponent_bits,
                          &number.mantissa_bits, &positions, &deltas, &target))
        return NULL;
    size_t n = sparse_check(&target, &base, number, &positions, &deltas);
    const size_t count = (size_t)positions.len / 4;
    if (n && count && largest_position(positions.buf, count) >= n) {
        fail("a position lies beyond the frame");
        n = 0;
    }
    if (n) {
        Py_BEGIN_ALLOW_THREADS
        FOR_WIDTH(number.word_bytes, patch_,
                  (base.buf, target.buf, n, number.exponent_bits > 0, positions.buf, deltas.buf, count));
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&base);
    PyBuffer_Release(&positions);
    PyBuffer_Release(&deltas);
    PyBuffer_Release(&target);
    return n ? Py_NewRef(Py_None) : NULL;
}

/* ---- module -------------------------------------------------------------------------------------------------- */

static PyMethodDef methods[] = {
    {"split", split, METH_VARARGS, split_doc},
    {"join", join, METH_VARARGS, join_doc},
    {"measure", measure, METH_VARARGS, measure_doc},
    {"sort", sort, METH_VARARGS, sort_doc},
    {"unsort", unsort, METH_VARARGS, unsort_doc},
    {"changes", changes, METH_VARARGS, changes_doc},
    {"gaps", gaps, METH_VARARGS, gaps_doc},
    {"locate", locate, METH_VARARGS, locate_doc},
    {"patch", patch, METH_VARARGS, patch_doc},
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

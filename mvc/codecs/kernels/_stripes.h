/* The kernels of entropy-coded planes (spec-v1, section 6.2, mode 4), as Python calls them; included once by _native.c.
 *
 * A plane is cut into stripes, each with a context; all bytes of a stripe are coded by the table of its context.
 */

#define ALIKE_SYMBOLS 64 /* whose ranges fit four vector registers */
#define RARE 256         /* other symbols may make one byte in so many */

/* How a plane is encoded. */
typedef struct {
    const uint32_t *ranges;  /* MAX_SYMBOLS for each context */
    const uint8_t *contexts; /* of each stripe */
    uint32_t *states;
    size_t stripe, lanes;
    uint32_t lowest; /* of the ALIKE_SYMBOLS that mostly occur; MAX_SYMBOLS if they are too many */
} coding_t;

/* 1 if every stripe of a plane of n bytes has a context below `count`; otherwise 0 with an exception set. */
static int stripes_check(size_t n, Py_ssize_t stripe, const Py_buffer *contexts, size_t count)
{
    if (n > MAX_WORDS || stripe < 1 || (size_t)contexts->len != n / (size_t)stripe + (n % (size_t)stripe > 0) ||
        greatest(contexts->buf, (size_t)contexts->len) >= count) {
        fail("a plane has at most 2^24 bytes, and a context for each stripe");
        return 0;
    }
    return 1;
}

/* Write the context of each of the bytes start .. start + m - 1. */
static void spread_contexts(const uint8_t *contexts, size_t stripe, size_t start, size_t m, uint8_t *out)
{
    if (stripe == 1)
        memcpy(out, contexts + start, m);
    for (size_t at = start, end = start + m; at < end && stripe > 1;) {
        size_t stop = (at / stripe + 1) * stripe;
        stop = stop < end ? stop : end;
        memset(out + (at - start), contexts[at / stripe], stop - at);
        at = stop;
    }
}

/* 1 if tables, states and refills suit a plane; otherwise 0 with an exception set. */
static int coding_check(const Py_buffer *frequencies, const Py_buffer *states, const Py_buffer *refills)
{
    const size_t lanes = (size_t)states->len / 4;
    if (!tables_check(frequencies, 8))
        return 0;
    if (!aligned(states, 4) || lanes < 1 || lanes > MAX_LANES || (lanes & (lanes - 1)) || !aligned(refills, 2)) {
        fail("lanes must be a power of two from 1 to 256, refills must have 16 bits");
        return 0;
    }
    return 1;
}

/* Encode bytes start .. start + m - 1: at most TILE of them if start is a multiple of TILE, so that lane 0 comes first;
 * otherwise at most 16, of whose lanes the first is the one of a multiple of 16. */
static uint16_t *encode_spread(const coding_t *coding, const uint8_t *plane, size_t start, size_t m, uint16_t *end)
{
    uint8_t context[TILE];
    spread_contexts(coding->contexts, coding->stripe, start, m, context);
    uint32_t *states = coding->states + (start & (coding->lanes - 1));
    return rans_encode(plane + start, context, m, coding->ranges, states, coding->lanes, end);
}

#ifdef VECTOR_LANES
/* Encode a plane with few likely symbols; lanes is a multiple of 16. Sixteen bytes that lie in two stripes are coded apart. */
static uint16_t *encode_alike(const coding_t *coding, const uint8_t *plane, size_t n, uint16_t *end)
{
    size_t at = n & ~(size_t)15;
    end = encode_spread(coding, plane, at, n - at, end);
    while (at > 0) {
        const size_t owner = (at - 1) / coding->stripe, begin = (owner * coding->stripe + 15) & ~(size_t)15;
        const uint32_t *ranges = coding->ranges + (size_t)coding->contexts[owner] * MAX_SYMBOLS;
        if (begin < at)
            end = rans_encode_alike(plane, begin, at, ranges, coding->lowest, coding->states, coding->lanes, end);
        at = begin < at ? begin : at;
        if (at > owner * coding->stripe) {
            at -= 16;
            end = encode_spread(coding, plane, at, 16, end);
        }
    }
    return end;
}
#endif

/* Encode a plane; refills are written downwards from `end`. Returns the first of them. */
static uint16_t *encode_plane(const coding_t *coding, const uint8_t *plane, size_t n, uint16_t *end)
{
#ifdef VECTOR_LANES
    if (coding->lanes % 16 == 0 && coding->lowest < MAX_SYMBOLS && vectors_help())
        return encode_alike(coding, plane, n, end);
#endif
    for (size_t start = (n + TILE - 1) / TILE * TILE; start > 0;) {
        start -= TILE;
        end = encode_spread(coding, plane, start, n - start < TILE ? n - start : TILE, end);
    }
    return end;
}

/* The lowest of ALIKE_SYMBOLS in a row, which end with the highest byte that occurs or begin with 0, if most of what
 * occurs lies among them; otherwise MAX_SYMBOLS. So they never go beyond the last of MAX_SYMBOLS. */
static uint32_t likely_symbols(const uint16_t *frequencies, size_t contexts)
{
    size_t highest = 0, outside = 0;
    for (size_t k = 0; k < contexts * MAX_SYMBOLS; k++)
        highest = frequencies[k] && k % MAX_SYMBOLS > highest ? k % MAX_SYMBOLS : highest;
    const size_t lowest = highest < ALIKE_SYMBOLS ? 0 : highest + 1 - ALIKE_SYMBOLS;
    for (size_t k = 0; k < contexts * MAX_SYMBOLS; k++)
        outside += k % MAX_SYMBOLS < lowest ? frequencies[k] : 0;
    return outside > contexts * SCALE / RARE ? MAX_SYMBOLS : (uint32_t)lowest;
}

PyDoc_STRVAR(stripe_encode_doc, "stripe_encode(plane, stripe, contexts, frequencies, states, refills)\n--\n\n"
                                 "See reference.stripe_encode.");

static PyObject *stripe_encode(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer plane, contexts, frequencies, states, refills;
    Py_buffer *const buffers[] = {&plane, &contexts, &frequencies, &states, &refills};
    Py_ssize_t stripe, refilled = 0;
    if (!PyArg_ParseTuple(args, "y*ny*y*w*w*:stripe_encode", &plane, &stripe, &contexts, &frequencies, &states,
                          &refills))
        return NULL;
    const size_t n = (size_t)plane.len, count = (size_t)frequencies.len / 2 / MAX_SYMBOLS;
    int good = coding_check(&frequencies, &states, &refills) && stripes_check(n, stripe, &contexts, count);
    if (good && (size_t)refills.len < 2 * n + 2)
        good = fail("there is no room for the refills") == 0;
    uint32_t *ranges = good ? PyMem_Calloc(count * MAX_SYMBOLS, sizeof(uint32_t)) : NULL;
    if (good && ranges == NULL)
        PyErr_NoMemory();
    if (ranges != NULL) {
        Py_BEGIN_ALLOW_THREADS
        lanes_t state;
        coding_t coding = {.ranges = ranges, .contexts = contexts.buf, .stripe = (size_t)stripe, .states = state.of,
                           .lanes = (size_t)states.len / 4};
        uint16_t *end = (uint16_t *)refills.buf + n + 1; /* the word below the last refill is written to, too */
        for (size_t j = 0; j < coding.lanes; j++)
            coding.states[j] = LOWEST;
        rans_ranges(frequencies.buf, count, 8, ranges);
        coding.lowest = likely_symbols(frequencies.buf, count);
        uint16_t *first = encode_plane(&coding, plane.buf, n, end);
        refilled = end - first;
        memmove(refills.buf, first, 2 * (size_t)refilled);
        memcpy(states.buf, state.of, (size_t)states.len);
        Py_END_ALLOW_THREADS
        PyMem_Free(ranges);
    }
    release(buffers, 5);
    return ranges != NULL ? PyLong_FromSsize_t(refilled) : NULL;
}

PyDoc_STRVAR(stripe_decode_doc, "stripe_decode(stripe, contexts, frequencies, states, refills, plane)\n--\n\n"
                                 "See reference.stripe_decode.");

static PyObject *stripe_decode(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer contexts, frequencies, states, refills, plane;
    Py_buffer *const buffers[] = {&contexts, &frequencies, &states, &refills, &plane};
    Py_ssize_t stripe;
    int whole = 0;
    if (!PyArg_ParseTuple(args, "ny*y*w*y*w*:stripe_decode", &stripe, &contexts, &frequencies, &states, &refills,
                          &plane))
        return NULL;
    const size_t n = (size_t)plane.len, count = (size_t)frequencies.len / 2 / MAX_SYMBOLS;
    const int good = coding_check(&frequencies, &states, &refills) && stripes_check(n, stripe, &contexts, count);
    uint32_t *slots = good ? PyMem_Malloc(count * SCALE * sizeof(uint32_t)) : NULL;
    if (good && slots == NULL)
        PyErr_NoMemory();
    if (slots != NULL) {
        Py_BEGIN_ALLOW_THREADS
        uint8_t context[TILE];
        lanes_t state;
        const size_t lanes = (size_t)states.len / 4;
        memcpy(state.of, states.buf, (size_t)states.len);
        const uint16_t *next = refills.buf, *end = next + refills.len / 2;
        rans_slots(frequencies.buf, count, 8, slots);
        for (size_t start = 0; start < n && next != NULL; start += TILE) {
            const size_t m = n - start < TILE ? n - start : TILE;
            spread_contexts(contexts.buf, (size_t)stripe, start, m, context);
            next = rans_decode(context, (uint8_t *)plane.buf + start, m, slots, state.of, lanes, next, end);
        }
        whole = next == end;
        for (size_t j = 0; j < lanes; j++)
            whole &= state.of[j] == LOWEST;
        Py_END_ALLOW_THREADS
        PyMem_Free(slots);
    }
    release(buffers, 5);
    return slots != NULL ? PyBool_FromLong(whole) : NULL;
}

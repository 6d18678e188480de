/* Tables of probabilities, from counts to levels to frequencies (spec-v1, section 6.5, step 4), as Python calls them;
 * included once by _native.c. Levels and weights are given by the caller, who owns the numbers of the specification. */

/* Number of contexts of `levels`, of `symbols` symbols each, if the other table has as many entries; otherwise 0 with an
 * exception set. */
static size_t contexts_in(const Py_buffer *levels, Py_ssize_t symbols, Py_ssize_t entries)
{
    if (symbols < 1 || symbols > MAX_SYMBOLS || levels->len < symbols || levels->len % symbols || entries % symbols ||
        entries != levels->len) {
        fail("counts and tables must have the same contexts and 1 to 256 symbols");
        return 0;
    }
    return (size_t)(levels->len / symbols);
}

/* Levels of one context. `bounds` ascend: 2 plus how many are not greater than (frequency - 1) << 16 is the level. */
static void levels_of(const uint32_t *counts, size_t symbols, const int64_t *bounds, size_t count, uint8_t *levels)
{
    uint64_t total = 0;
    for (size_t s = 0; s < symbols; s++)
        total += counts[s];
    memset(levels, 0, symbols);
    for (size_t s = 0; s < symbols; s++) {
        if (counts[s] == 0)
            continue;
        const int64_t scaled = (int64_t)(((uint64_t)counts[s] << (SCALE_BITS + 16)) / total);
        size_t low = 0, high = count;
        while (low < high) {
            const size_t middle = (low + high) / 2;
            if (bounds[middle] <= scaled - (1 << 16))
                low = middle + 1;
            else
                high = middle;
        }
        levels[s] = 2 * scaled < 3 << 16 ? 1 : (uint8_t)(2 + low);
    }
    if (total == 0)
        levels[0] = 1; /* no symbol has this context */
}

/* Frequencies of one context, of which at least one symbol occurs. */
static void frequencies_of(const uint8_t *levels, size_t symbols, const uint64_t *weights, uint16_t *frequencies)
{
    uint64_t sum = 0, present = 0, given = 0;
    size_t most = 0;
    for (size_t s = 0; s < symbols; s++) {
        sum += weights[levels[s]];
        present += levels[s] > 0;
    }
    for (size_t s = 0; s < symbols; s++) {
        const uint64_t share = weights[levels[s]] * (SCALE - present) / (sum ? sum : 1);
        frequencies[s] = (uint16_t)(share + (levels[s] > 0));
        given += frequencies[s];
        most = frequencies[s] > frequencies[most] ? s : most;
    }
    frequencies[most] += (uint16_t)(SCALE - given);
}

/* The first and the last of the symbols that occur; 0 and 0 if none does. */
static void symbols_used(const uint32_t *counts, size_t contexts, size_t symbols, size_t *first, size_t *last)
{
    *first = symbols - 1, *last = 0;
    for (size_t c = 0; c < contexts; c++, counts += symbols) {
        for (size_t s = 0; s < *first; s++)
            if (counts[s])
                *first = s;
        for (size_t s = symbols - 1; s > *last; s--)
            if (counts[s])
                *last = s;
    }
    if (*first > *last)
        *first = *last;
}

/* What numbers stand for, given by the caller. */
typedef struct {
    const int64_t *bounds;
    size_t count; /* of the bounds */
    const uint64_t *weights;
} scale_t;

/* Write the tables of `used` symbols from `first` on, and how they are stored. */
static void tables_write(const uint32_t *counts, size_t contexts, size_t symbols, size_t first, size_t used,
                         const scale_t *scale, uint8_t *stored, uint16_t *frequencies)
{
    uint8_t levels[2][MAX_SYMBOLS] = {{0}};
    memset(frequencies, 0, contexts * symbols * sizeof *frequencies);
    for (size_t c = 0; c < contexts; c++, stored += used) {
        uint8_t *const level = levels[c & 1], *const before = levels[~c & 1];
        levels_of(counts + c * symbols + first, used, scale->bounds, scale->count, level);
        frequencies_of(level, used, scale->weights, frequencies + c * symbols + first);
        for (size_t s = 0; s < used; s++) {
            const uint8_t change = (uint8_t)(level[s] - before[s]);
            stored[s] = (uint8_t)(change << 1 ^ -(change >> 7));
        }
    }
}

PyDoc_STRVAR(tables_doc, "tables(counts, symbols, trimmed, bounds, weights, stored, frequencies)\n--\n\n"
                         "See reference.tables.");

static PyObject *tables(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer counts, bounds, weights, stored, frequencies;
    Py_buffer *const buffers[] = {&counts, &bounds, &weights, &stored, &frequencies};
    Py_ssize_t symbols;
    int trimmed;
    size_t first = 0, last = 0;
    if (!PyArg_ParseTuple(args, "y*npy*y*w*w*:tables", &counts, &symbols, &trimmed, &bounds, &weights, &stored,
                          &frequencies))
        return NULL;
    size_t contexts = contexts_in(&stored, symbols, counts.len / 4);
    if (contexts && (!aligned(&counts, 4) || !aligned(&bounds, 8) || !aligned(&weights, 8) || bounds.len > 8 * 253 ||
                     weights.len < bounds.len + 24 || !aligned(&frequencies, 2) || frequencies.len / 2 != counts.len / 4)) {
        fail("counts need 32 bits, bounds and weights 64, every level a weight, and frequencies room");
        contexts = 0;
    }
    if (contexts) {
        Py_BEGIN_ALLOW_THREADS
        const scale_t scale = {.bounds = bounds.buf, .count = (size_t)bounds.len / 8, .weights = weights.buf};
        symbols_used(counts.buf, contexts, (size_t)symbols, &first, &last);
        first = trimmed ? first : 0;
        tables_write(counts.buf, contexts, (size_t)symbols, first, last + 1 - first, &scale, stored.buf,
                     frequencies.buf);
        Py_END_ALLOW_THREADS
    }
    release(buffers, 5);
    return contexts ? Py_BuildValue("nn", (Py_ssize_t)first, (Py_ssize_t)(last + 1 - first)) : NULL;
}

PyDoc_STRVAR(frequencies_doc, "frequencies(levels, symbols, weights, frequencies)\n--\n\nSee reference.frequencies.");

static PyObject *frequencies(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer given, weights, out;
    Py_buffer *const buffers[] = {&given, &weights, &out};
    Py_ssize_t symbols;
    if (!PyArg_ParseTuple(args, "y*ny*w*:frequencies", &given, &symbols, &weights, &out))
        return NULL;
    size_t contexts = contexts_in(&given, symbols, given.len);
    const size_t stride = contexts ? (size_t)out.len / 2 / contexts : 0;
    const uint8_t *level = given.buf;
    if (contexts && (!aligned(&out, 2) || !aligned(&weights, 8) || stride * contexts * 2 != (size_t)out.len ||
                     stride < (size_t)symbols || greatest(level, (size_t)given.len) >= (size_t)weights.len / 8)) {
        fail("a level has no weight, or there is no room for the frequencies");
        contexts = 0;
    }
    for (size_t c = 0; c < contexts; c++)
        if (greatest(level + c * (size_t)symbols, (size_t)symbols) == 0) {
            fail("a context has no symbol");
            contexts = 0;
        }
    if (contexts) {
        Py_BEGIN_ALLOW_THREADS
        memset(out.buf, 0, (size_t)out.len);
        for (size_t c = 0; c < contexts; c++)
            frequencies_of(level + c * (size_t)symbols, (size_t)symbols, weights.buf, (uint16_t *)out.buf + c * stride);
        Py_END_ALLOW_THREADS
    }
    release(buffers, 3);
    return contexts ? Py_NewRef(Py_None) : NULL;
}

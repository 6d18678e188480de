/* Tables of probabilities, from counts to levels to frequencies (spec-v1, section 6.5, step 4), as Python calls them;
 * included once by _native.c. Levels and weights are given by the caller, who owns the numbers of the specification. */

/* Number of contexts of `levels`, of `symbols` symbols each, if the other table has as many entries; otherwise 0 with an
 * exception set. */
static size_t tables_of(const Py_buffer *levels, Py_ssize_t symbols, Py_ssize_t entries)
{
    if (symbols < 1 || symbols > MAX_SYMBOLS || levels->len < symbols || levels->len % symbols || entries % symbols ||
        entries != levels->len) {
        fail("counts and levels must have the same contexts and 1 to 256 symbols");
        return 0;
    }
    return (size_t)(levels->len / symbols);
}

PyDoc_STRVAR(levels_doc, "levels(counts, symbols, bounds, levels)\n--\n\nSee reference.levels.");

/* Levels of one context. `bounds` ascend: 2 plus how many are not greater than (frequency - 1) << 16 is the level. */
static void levels_of(const uint32_t *counts, size_t symbols, const int64_t *bounds, size_t count, uint8_t *levels)
{
    uint64_t total = 0;
    for (size_t s = 0; s < symbols; s++)
        total += counts[s];
    for (size_t s = 0; s < symbols; s++) {
        const int64_t scaled = total ? (int64_t)(((uint64_t)counts[s] << (SCALE_BITS + 16)) / total) : 0;
        size_t low = 0, high = count;
        while (low < high) {
            const size_t middle = (low + high) / 2;
            if (bounds[middle] <= scaled - (1 << 16))
                low = middle + 1;
            else
                high = middle;
        }
        levels[s] = counts[s] == 0 ? 0 : 2 * scaled < 3 << 16 ? 1 : (uint8_t)(2 + low);
    }
    if (total == 0)
        levels[0] = 1; /* no symbol has this context */
}

static PyObject *levels(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer counts, bounds, out;
    Py_buffer *const buffers[] = {&counts, &bounds, &out};
    Py_ssize_t symbols;
    if (!PyArg_ParseTuple(args, "y*ny*w*:levels", &counts, &symbols, &bounds, &out))
        return NULL;
    size_t contexts = tables_of(&out, symbols, counts.len / 4);
    if (contexts && (!aligned(&counts, 4) || !aligned(&bounds, 8) || bounds.len / 8 > 253)) {
        fail("counts need 32 bits, bounds 64");
        contexts = 0;
    }
    if (contexts) {
        Py_BEGIN_ALLOW_THREADS
        for (size_t c = 0; c < contexts; c++)
            levels_of((const uint32_t *)counts.buf + c * (size_t)symbols, (size_t)symbols, bounds.buf,
                      (size_t)bounds.len / 8, (uint8_t *)out.buf + c * (size_t)symbols);
        Py_END_ALLOW_THREADS
    }
    release(buffers, 3);
    return contexts ? Py_NewRef(Py_None) : NULL;
}

PyDoc_STRVAR(frequencies_doc, "frequencies(levels, symbols, weights, frequencies)\n--\n\nSee reference.frequencies.");

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

static PyObject *frequencies(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer given, weights, out;
    Py_buffer *const buffers[] = {&given, &weights, &out};
    Py_ssize_t symbols;
    if (!PyArg_ParseTuple(args, "y*ny*w*:frequencies", &given, &symbols, &weights, &out))
        return NULL;
    size_t contexts = tables_of(&given, symbols, given.len);
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

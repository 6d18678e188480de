/* The kernels of `context-delta` (spec-v1, section 6.5), as Python calls them; included once by _native.c. */

/* ---- contexts ------------------------------------------------------------------------------------------------ */

/* Bits that hold every symbol: there are 32, 64, 128 or 256. */
static int symbol_bits(int word_bytes)
{
    return word_bytes == 1 ? 5 : word_bytes == 2 ? 6 : word_bytes == 4 ? 7 : 8;
}

/* Neighbours often share a key, and an addition would wait for the one before: so there are two counters of each.
 * Pairs of context and symbol have four. */
static void count_tile_keys(const uint16_t *keys, size_t n, uint32_t *counts, uint32_t *second)
{
    for (size_t i = 0; i + 1 < n; i += 2) {
        counts[keys[i]]++;
        second[keys[i + 1]]++;
    }
    if (n % 2)
        counts[keys[n - 1]]++;
}

/* Context and symbol of a word as one number. */
static CLONES void join_pairs(const uint8_t *restrict symbols, const uint8_t *restrict contexts, size_t n, int shift,
                              uint16_t *restrict pairs)
{
    for (size_t i = 0; i < n; i++)
        pairs[i] = (uint16_t)((uint32_t)contexts[i] << shift | symbols[i]);
}

/* Count n <= TILE words, each in one of four counters of its context and symbol. */
static void count_tile(const uint8_t *symbols, const uint8_t *contexts, size_t n, int shift, uint32_t (*four)[4])
{
    uint16_t pairs[TILE];
    size_t i = 0;
    join_pairs(symbols, contexts, n, shift, pairs);
    for (; i + 4 <= n; i += 4)
        for (size_t k = 0; k < 4; k++)
            four[pairs[i + k]][k]++;
    for (; i < n; i++)
        four[pairs[i]][0]++;
}

static size_t write_bits(const uint8_t *u, const uint8_t *symbols, size_t n, size_t width, uint8_t *out)
{
    uint16_t places[TILE];
    stream_t stream = {out, 0, 0};
    for (size_t start = 0; start < n; start += TILE) {
        size_t count = raw_places(symbols + start, n - start < TILE ? n - start : TILE, places);
        FOR_WIDTH(width, put_bits_, (u + start * width, symbols + start, places, count, &stream));
    }
    return (size_t)(stream.next - out) + (stream.count > 0);
}

PyDoc_STRVAR(count_keys_doc, "count_keys(base, keying, step, counts)\n--\n\nSee reference.count_keys.");

static PyObject *count_keys(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer base, rows, counts;
    Py_buffer *const buffers[] = {&base, &rows, &counts};
    Py_ssize_t row_words, step;
    number_t number;
    int mantissa;
    uint32_t doubled = 0;
    if (!PyArg_ParseTuple(args, "y*((iii)y*ni)nw*:count_keys", &base, &number.word_bytes, &number.exponent_bits,
                          &number.mantissa_bits, &rows, &row_words, &mantissa, &step, &counts))
        return NULL;
    size_t n = frame_check(number, base.len, row_words, rows.len, mantissa);
    if (n && (step < 1 || !aligned(&counts, 4) || (size_t)counts.len / 4 < ((size_t)key_cap(mantissa) + 1) << mantissa)) {
        fail("counts are too small or not aligned, or the step is none");
        n = 0;
    }
    uint32_t *second = n ? PyMem_Calloc((size_t)counts.len / 4, sizeof(uint32_t)) : NULL;
    if (n && second == NULL)
        PyErr_NoMemory();
    if (second != NULL) {
        Py_BEGIN_ALLOW_THREADS
        uint16_t key[TILE];
        uint32_t *count = counts.buf;
        memset(count, 0, (size_t)counts.len);
        FOR_WIDTH(number.word_bytes, doubled = doubled_, (base.buf, n, number));
        for (size_t tile = 0; tile * TILE < n; tile += (size_t)step) {
            const size_t start = tile * TILE, m = n - start < TILE ? n - start : TILE;
            FOR_WIDTH(number.word_bytes, range_keys_,
                      (base.buf, rows.buf, key, start, start + m, (size_t)row_words, number, mantissa, doubled));
            count_tile_keys(key, m, count, second);
        }
        for (size_t k = 0; k < (size_t)counts.len / 4; k++)
            count[k] += second[k];
        Py_END_ALLOW_THREADS
        PyMem_Free(second);
    }
    release(buffers, 3);
    return second != NULL ? PyLong_FromUnsignedLong(doubled / 2) : NULL;
}

PyDoc_STRVAR(classify_doc, "classify(deltas, base, keying, top, context_of, symbols, contexts, counts)\n--\n\n"
                           "See reference.classify.");

static PyObject *classify(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer deltas, base, rows, context_of, symbols, contexts, counts;
    Py_buffer *const buffers[] = {&deltas, &base, &rows, &context_of, &symbols, &contexts, &counts};
    Py_ssize_t row_words;
    number_t number;
    int mantissa, top;
    if (!PyArg_ParseTuple(args, "y*y*((iii)y*ni)iy*w*w*w*:classify", &deltas, &base, &number.word_bytes,
                          &number.exponent_bits, &number.mantissa_bits, &rows, &row_words, &mantissa, &top,
                          &context_of, &symbols, &contexts, &counts))
        return NULL;
    size_t n = frame_check(number, base.len, row_words, rows.len, mantissa);
    const int shift = symbol_bits(number.word_bytes);
    if (n && (top < 0 || top >> number.exponent_bits || deltas.len != base.len || (size_t)symbols.len != n ||
              (size_t)contexts.len != n || !aligned(&counts, 4) ||
              (size_t)context_of.len < ((size_t)key_cap(mantissa) + 1) << mantissa ||
              (size_t)counts.len / 4 != (greatest(context_of.buf, (size_t)context_of.len) + 1) << shift)) {
        fail("deltas, base, symbols and contexts differ in length, or there is no such exponent");
        n = 0;
    }
    uint32_t(*four)[4] = n ? PyMem_Calloc((size_t)counts.len / 4, sizeof(*four)) : NULL;
    if (n && four == NULL)
        PyErr_NoMemory();
    if (four != NULL) {
        Py_BEGIN_ALLOW_THREADS
        const uint8_t *u = deltas.buf;
        uint8_t *symbol = symbols.buf, *context = contexts.buf;
        uint32_t *count = counts.buf;
        uint16_t key[TILE];
        contexts_t map;
        contexts_start(&map, context_of.buf, ((size_t)key_cap(mantissa) + 1) << mantissa);
        for (size_t start = 0; start < n; start += TILE) {
            const size_t m = n - start < TILE ? n - start : TILE;
            FOR_WIDTH(number.word_bytes, symbols_, (u + start * (size_t)number.word_bytes, symbol + start, m));
            FOR_WIDTH(number.word_bytes, range_keys_,
                      (base.buf, rows.buf, key, start, start + m, (size_t)row_words, number, mantissa, 2 * (uint32_t)top));
            map_keys(&map, key, context + start, m);
            count_tile(symbol + start, context + start, m, shift, four);
        }
        for (size_t k = 0; k < (size_t)counts.len / 4; k++)
            count[k] = four[k][0] + four[k][1] + four[k][2] + four[k][3];
        Py_END_ALLOW_THREADS
        PyMem_Free(four);
    }
    release(buffers, 7);
    return four != NULL ? Py_NewRef(Py_None) : NULL;
}

/* ---- coding -------------------------------------------------------------------------------------------------- */

/* Number of contexts of a table of frequencies of 2^bits symbols, each of which must sum to SCALE; 0 with an exception
 * set. */
static size_t tables_check(const Py_buffer *frequencies, int bits)
{
    const size_t symbols = (size_t)1 << bits;
    size_t contexts = (size_t)frequencies->len / 2 / symbols;
    if (contexts == 0 || contexts > MAX_CONTEXTS || 2 * contexts * symbols != (size_t)frequencies->len ||
        !aligned(frequencies, 2)) {
        fail("there must be 1 to 256 contexts, each with all symbols");
        return 0;
    }
    const uint16_t *frequency = frequencies->buf;
    for (size_t c = 0; c < contexts; c++, frequency += symbols) {
        uint32_t sum = 0;
        for (size_t s = 0; s < symbols; s++)
            sum += frequency[s];
        if (sum != SCALE) {
            fail("the frequencies of a context do not sum to 2048");
            return 0;
        }
    }
    return contexts;
}

/* Number of lanes that the states are for; 0 with an exception set. */
static size_t lanes_check(const Py_buffer *states)
{
    size_t lanes = (size_t)states->len / 4;
    if (!aligned(states, 4) || lanes < 8 || lanes > MAX_LANES || (lanes & (lanes - 1))) {
        fail("lanes must be a power of two from 8 to 256");
        return 0;
    }
    return lanes;
}

PyDoc_STRVAR(context_encode_doc, "context_encode(deltas, word_bytes, symbols, contexts, frequencies, states, "
                                 "refills, bits)\n--\n\nSee reference.context_encode.");

static PyObject *context_encode(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer deltas, symbols, contexts, frequencies, states, refills, bits;
    Py_buffer *const buffers[] = {&deltas, &symbols, &contexts, &frequencies, &states, &refills, &bits};
    Py_ssize_t refilled = 0;
    size_t nbytes = 0;
    number_t number = {0, 0, 0};
    if (!PyArg_ParseTuple(args, "y*iy*y*y*w*w*w*:context_encode", &deltas, &number.word_bytes, &symbols, &contexts,
                          &frequencies, &states, &refills, &bits))
        return NULL;
    size_t n = (size_t)symbols.len, lanes = 0;
    size_t count = number_check(number) == 0 ? tables_check(&frequencies, symbol_bits(number.word_bytes)) : 0;
    lanes = count ? lanes_check(&states) : 0;
    if (lanes && (n > MAX_WORDS || (size_t)deltas.len != n * (size_t)number.word_bytes || (size_t)contexts.len != n ||
                  !aligned(&refills, 2) || (size_t)refills.len < 2 * n + 2 || (size_t)bits.len < (size_t)deltas.len + 8 ||
                  (n && (greatest(symbols.buf, n) >> symbol_bits(number.word_bytes) || greatest(contexts.buf, n) >= count)))) {
        fail("words, symbols, contexts and room for them disagree");
        lanes = 0;
    }
    uint32_t *ranges = lanes ? PyMem_Calloc(count * MAX_SYMBOLS, sizeof(uint32_t)) : NULL;
    if (lanes && ranges == NULL)
        PyErr_NoMemory();
    if (ranges != NULL) {
        Py_BEGIN_ALLOW_THREADS
        lanes_t state;
        uint16_t *end = (uint16_t *)refills.buf + n + 1; /* the word below the last refill is written to, too */
        for (size_t j = 0; j < lanes; j++)
            state.of[j] = LOWEST;
        rans_ranges(frequencies.buf, count, symbol_bits(number.word_bytes), ranges);
        uint16_t *first = rans_encode(symbols.buf, contexts.buf, n, ranges, state.of, lanes, end);
        refilled = end - first;
        memmove(refills.buf, first, 2 * (size_t)refilled);
        memcpy(states.buf, state.of, (size_t)states.len);
        nbytes = write_bits(deltas.buf, symbols.buf, n, (size_t)number.word_bytes, bits.buf);
        Py_END_ALLOW_THREADS
        PyMem_Free(ranges);
    }
    release(buffers, 7);
    return ranges != NULL ? Py_BuildValue("nn", refilled, (Py_ssize_t)nbytes) : NULL;
}

PyDoc_STRVAR(context_decode_doc, "context_decode(base, keying, context_of, frequencies, states, refills, bits, "
                                 "target)\n--\n\nSee reference.context_decode.");

typedef struct {
    const uint8_t *base, *rows, *bits;
    contexts_t contexts;
    const uint16_t *next, *end; /* refills */
    const uint32_t *slots;
    uint32_t *states;
    uint8_t *target;
    size_t words, row_words, lanes, nbytes;
    number_t number;
    int mantissa;
    uint32_t doubled; /* twice the largest exponent field */
} decoding_t;

/* Decode words start .. start + m - 1; `at` is the place of their first raw bit. Returns that behind their last one. */
static size_t decode_tile(decoding_t *d, size_t start, size_t m, size_t at)
{
    uint16_t keys[TILE], places[TILE];
    uint8_t contexts[TILE], symbols[TILE];
    const size_t width = (size_t)d->number.word_bytes;
    uint8_t *target = d->target + start * width;
    FOR_WIDTH(width, range_keys_,
              (d->base, d->rows, keys, start, start + m, d->row_words, d->number, d->mantissa, d->doubled));
    map_keys(&d->contexts, keys, contexts, m);
    d->next = rans_decode(contexts, symbols, m, d->slots, d->states, d->lanes, d->next, d->end);
    if (d->next == NULL)
        return 0;
    FOR_WIDTH(width, leading_, (symbols, target, m));
    size_t count = raw_places(symbols, m, places);
    FOR_WIDTH(width, at = take_bits_, (symbols, places, count, d->bits, d->nbytes, at, target));
    FOR_WIDTH(width, undelta_, (d->base + start * width, target, m, d->number.exponent_bits > 0));
    return at;
}

/* Decode a frame, a tile at a time, so that what is in between stays in the first-level cache. True if all of the
 * stored values were used, and no more. */
static int decode_frame(decoding_t *d)
{
    size_t at = 0;
    FOR_WIDTH(d->number.word_bytes, d->doubled = doubled_, (d->base, d->words, d->number));
    for (size_t start = 0; start < d->words && d->next != NULL; start += TILE)
        at = decode_tile(d, start, d->words - start < TILE ? d->words - start : TILE, at);
    int whole = d->next == d->end && (at + 7) / 8 == d->nbytes && (at % 8 == 0 || d->bits[at / 8] >> at % 8 == 0);
    for (size_t j = 0; j < d->lanes; j++)
        whole &= d->states[j] == LOWEST;
    return whole;
}

static PyObject *context_decode(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer base, rows, context_of, frequencies, states, refills, bits, target;
    Py_buffer *const buffers[] = {&base, &rows, &context_of, &frequencies, &states, &refills, &bits, &target};
    Py_ssize_t row_words;
    number_t number;
    int mantissa, whole = 0;
    if (!PyArg_ParseTuple(args, "y*((iii)y*ni)y*y*w*y*y*w*:context_decode", &base, &number.word_bytes,
                          &number.exponent_bits, &number.mantissa_bits, &rows, &row_words, &mantissa, &context_of,
                          &frequencies, &states, &refills, &bits, &target))
        return NULL;
    size_t n = frame_check(number, base.len, row_words, rows.len, mantissa);
    size_t count = n ? tables_check(&frequencies, symbol_bits(number.word_bytes)) : 0;
    size_t lanes = count ? lanes_check(&states) : 0;
    if (lanes && (target.len != base.len || !aligned(&refills, 2) ||
                  (size_t)context_of.len < ((size_t)key_cap(mantissa) + 1) << mantissa ||
                  greatest(context_of.buf, (size_t)context_of.len) >= count)) {
        fail("base, target, refills and contexts disagree");
        lanes = 0;
    }
    uint32_t *slots = lanes ? PyMem_Malloc(count * SCALE * sizeof(uint32_t)) : NULL;
    if (lanes && slots == NULL)
        PyErr_NoMemory();
    if (slots != NULL) {
        Py_BEGIN_ALLOW_THREADS
        const uint16_t *next = refills.buf;
        lanes_t state;
        memcpy(state.of, states.buf, (size_t)states.len);
        decoding_t decoding = {.base = base.buf, .rows = rows.buf, .bits = bits.buf,
                               .next = next, .end = next + refills.len / 2, .slots = slots, .states = state.of,
                               .target = target.buf, .words = n, .row_words = (size_t)row_words, .lanes = lanes,
                               .nbytes = (size_t)bits.len, .number = number, .mantissa = mantissa};
        contexts_start(&decoding.contexts, context_of.buf, ((size_t)key_cap(mantissa) + 1) << mantissa);
        rans_slots(frequencies.buf, count, symbol_bits(number.word_bytes), slots);
        whole = decode_frame(&decoding);
        Py_END_ALLOW_THREADS
        PyMem_Free(slots);
    }
    release(buffers, 8);
    return slots != NULL ? PyBool_FromLong(whole) : NULL;
}

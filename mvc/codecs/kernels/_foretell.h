/* The kernels of foretold codes (spec-v1, section 6.10), as Python calls them; included once by _native.c.
 *
 * Lines are coded by bands of 8, so that one vector has a number for each line of a band. Every position has a list of
 * the lines before where its code is not 0: few, and only those are looked at. All floats here are integers below 2^24,
 * and so exact in any order, but for the two that are rounded as the specification says: reciprocals and products.
 */

#define BAND 8    /* lines */
#define REACH 256 /* lines before a band that tell of it */
#define SPAN 16   /* positions of a tile */
#define TURNED 15
#define MOST_MEAN 15360
#define MOST_POSITIONS ((size_t)1 << 18)
#define FORETOLD_CLASSES 232

/* A number for each line of a band, and twice as many floats; compilers make of these what the processor has. */
typedef int16_t halves_t __attribute__((vector_size(2 * BAND)));
typedef int32_t words_t __attribute__((vector_size(4 * BAND)));
typedef uint32_t naturals_t __attribute__((vector_size(4 * BAND)));
typedef float floats_t __attribute__((vector_size(4 * BAND)));

/* What a band knows. A line before it has the place (line mod REACH); in lists with REACH added if its code is negative. */
typedef struct {
    size_t positions, line, lines; /* of the band: the first, and how many */
    int64_t mean;
    size_t room;       /* of each list: a power of two */
    int64_t *sums;     /* of the weights of each position */
    uint32_t (*lists)[2]; /* begin and end of the list of each position; its entries lie at these, modulo the room */
    uint16_t *entries;
    uint8_t *scales, *weights; /* of each position */
    struct {
        floats_t alike[REACH]; /* of each line before, with each of the band */
        halves_t shares[2 * REACH];
        float energy[REACH];
    } *of;
} foretelling_t;

static void foretelling_free(foretelling_t *f)
{
    free(f->sums);
    free(f->lists);
    free(f->entries);
    free(f->scales);
    free(f->of);
}

/* 0 if memory is short. */
static int foretelling_new(foretelling_t *f, size_t lines, size_t positions, int mean)
{
    memset(f, 0, sizeof *f);
    f->positions = positions;
    f->mean = mean;
    for (f->room = 1; f->room < lines && f->room < REACH;)
        f->room *= 2;
    f->sums = calloc(positions, sizeof *f->sums);
    f->lists = calloc(positions, sizeof *f->lists);
    f->entries = malloc(positions * f->room * sizeof *f->entries);
    f->scales = malloc(2 * positions);
    f->of = aligned_alloc(sizeof(floats_t), sizeof *f->of);
    if (f->sums == NULL || f->lists == NULL || f->entries == NULL || f->scales == NULL || f->of == NULL) {
        foretelling_free(f);
        return 0;
    }
    f->weights = f->scales + positions;
    return 1;
}

/* Begin the band of `lines` lines from `line` on. */
static void band_begin(foretelling_t *f, size_t line, size_t lines)
{
    f->line = line;
    f->lines = lines;
    memset(f->of->alike, 0, sizeof f->of->alike);
    memset(f->of->energy, 0, sizeof f->of->energy);
    for (size_t j = 0; j < f->positions; j++) {
        const int64_t mean = (1024 * f->sums[j] + 4 * f->mean) / (int64_t)(line + 4);
        const int64_t weight = 8 * f->mean / (mean + f->mean / 8 + 1);
        f->scales[j] = (uint8_t)bit_length64((uint64_t)(mean * mean));
        f->weights[j] = (uint8_t)(weight > 1 ? weight : 1);
    }
}

/* The share that each line before has in what is foretold, and the noise that all of them make. */
static CLONES void shares_of(foretelling_t *f, naturals_t *noise)
{
    const size_t before = f->line < REACH ? f->line : REACH;
    float reciprocals[REACH];
    words_t squares = {0};
    for (size_t i = 0; i < before; i++)
        reciprocals[i] = 128.0f / (f->of->energy[i] + 32.0f);
    for (size_t i = 0; i < before; i++) {
        const words_t share = __builtin_convertvector(f->of->alike[i] * reciprocals[i], words_t); /* less than 128 */
        squares += share * share;
        f->of->shares[i] = __builtin_convertvector(share, halves_t);
        f->of->shares[REACH + i] = -f->of->shares[i];
    }
    *noise = (naturals_t)(squares | ((squares == 0) & 1));
}

/* What the lines before foretell of each line of the band at position j: at most 127 for each of 256. */
static inline void foretold_at(const foretelling_t *f, size_t j, halves_t *foretold)
{
    const uint16_t *const list = f->entries + j * f->room;
    const uint32_t end = f->lists[j][1], mask = (uint32_t)f->room - 1;
    halves_t sums = {0};
    for (uint32_t k = f->lists[j][0]; k != end; k++)
        sums += f->of->shares[list[k & mask]];
    *foretold = sums;
}

/* Class and sign (1 for minus) of each symbol of a tile of m positions from `begin` on, in the order of coding. */
static CLONES void tile_tell(foretelling_t *f, size_t begin, size_t m, uint8_t *classes, uint8_t *minus)
{
    naturals_t noise = {0};
    const int known = begin > 0 && f->line > 0;
    if (known)
        shares_of(f, &noise);
    for (size_t j = begin; j < begin + m; j++) {
        halves_t foretold = {0};
        words_t certainty = {0};
        if (known) {
            foretold_at(f, j, &foretold);
            const words_t wide = __builtin_convertvector(foretold, words_t);
            const naturals_t squares = (naturals_t)(4 * (naturals_t)wide * (naturals_t)wide);
            for (uint32_t k = 0; k < 7; k++) /* 4 * (256 * 127)^2 is less than 2^32 */
                certainty -= (words_t)(squares >= noise << k);
        }
        for (size_t l = 0; l < f->lines; l++) {
            *classes++ = (uint8_t)(f->scales[j] << 3 | certainty[l]);
            *minus++ = foretold[l] < 0;
        }
    }
}

/* Take in what the lines of the band have at position j: the sign of each, or 0; `some` tells if one is not. */
static inline void learn_at(foretelling_t *f, size_t j, const int8_t *signs, int some)
{
    const uint16_t *const list = f->entries + j * f->room;
    const uint32_t begin = f->lists[j][0], end = f->lists[j][1], mask = (uint32_t)f->room - 1;
    const float weight = f->weights[j];
    floats_t weighted[2] = {{0}};
    for (uint32_t k = begin; k != end; k++)
        f->of->energy[list[k & mask] % REACH] += weight;
    if (!some)
        return;
    for (size_t l = 0; l < BAND; l++)
        weighted[0][l] = weight * signs[l];
    weighted[1] = -weighted[0];
    for (uint32_t k = begin; k != end; k++) {
        const size_t entry = list[k & mask];
        f->of->alike[entry % REACH] += weighted[entry / REACH];
    }
}

/* Put the lines of the band into the list of position j, in place of those that are out of reach then. */
static inline void list_at(foretelling_t *f, size_t j, const int8_t *signs)
{
    uint16_t *const list = f->entries + j * f->room;
    const uint32_t mask = (uint32_t)f->room - 1;
    uint32_t begin = f->lists[j][0], end = f->lists[j][1];
    while (begin != end && (list[begin & mask] - f->line) % REACH < BAND)
        begin++;
    for (size_t l = 0; l < f->lines; l++)
        if (signs[l])
            list[end++ & mask] = (uint16_t)((f->line + l) % REACH + (signs[l] < 0 ? REACH : 0));
    f->lists[j][0] = begin;
    f->lists[j][1] = end;
}

/* Take in a tile; symbols lie in the order of coding. */
static CLONES void tile_learn(foretelling_t *f, size_t begin, size_t m, const uint8_t *symbols)
{
    const int more = begin + m < f->positions && f->line > 0;
    for (size_t j = begin; j < begin + m; j++, symbols += f->lines) {
        int8_t signs[BAND] = {0};
        int64_t sum = 0;
        uint64_t all = 0;
        memcpy(&all, symbols, f->lines);
        for (size_t l = 0; all && l < f->lines; l++) {
            const uint8_t s = symbols[l];
            signs[l] = (int8_t)(s > 0 && s < TURNED ? 1 - 2 * (s & 1) : 0);
            sum += s < 15 ? s : 15;
        }
        f->sums[j] += sum;
        if (more)
            learn_at(f, j, signs, all != 0);
        list_at(f, j, signs);
    }
}

/* A symbol with its sign turned, if it has one of those that are. */
static inline uint8_t turned_symbol(uint8_t s, uint8_t minus)
{
    return minus && s > 0 && s < TURNED ? (uint8_t)(((s - 1) ^ 1) + 1) : s;
}

/* The number of lines, if symbols are a matrix with a mean that there can be; otherwise 0 with an exception set. */
static size_t lines_check(const Py_buffer *symbols, Py_ssize_t positions, int mean)
{
    const size_t n = (size_t)symbols->len;
    if (n < 1 || n > MAX_WORDS || positions < 1 || (size_t)positions > MOST_POSITIONS || n % (size_t)positions ||
        mean < 0 || mean > MOST_MEAN) {
        fail("1 to 2^24 symbols make whole lines of at most 2^18, and have a mean weight of at most 15360");
        return 0;
    }
    return n / (size_t)positions;
}

/* Turn the signs of n symbols where a minus was foretold. */
static void turn_signs(const uint8_t *symbols, const uint8_t *minus, size_t n, uint8_t *turned)
{
    for (size_t i = 0; i < n; i++)
        turned[i] = turned_symbol(symbols[i], minus[i]);
}

/* Write class and turned symbol of each symbol of a band. */
static void band_foretell(foretelling_t *f, const uint8_t *symbols, uint8_t *classes, uint8_t *turned)
{
    uint8_t minus[SPAN * BAND], known[SPAN * BAND];
    for (size_t begin = 0; begin < f->positions; begin += SPAN) {
        const size_t m = f->positions - begin < SPAN ? f->positions - begin : SPAN;
        tile_tell(f, begin, m, classes, minus);
        for (size_t l = 0; l < f->lines; l++)
            for (size_t j = 0; j < m; j++)
                known[j * f->lines + l] = symbols[l * f->positions + begin + j];
        turn_signs(known, minus, m * f->lines, turned);
        tile_learn(f, begin, m, known);
        classes += m * f->lines;
        turned += m * f->lines;
    }
}

PyDoc_STRVAR(foretell_doc, "foretell(symbols, positions, mean, classes, turned)\n--\n\nSee reference.foretell.");

static PyObject *foretell(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer symbols, classes, turned;
    Py_buffer *const buffers[] = {&symbols, &classes, &turned};
    Py_ssize_t positions;
    int mean;
    if (!PyArg_ParseTuple(args, "y*niw*w*:foretell", &symbols, &positions, &mean, &classes, &turned))
        return NULL;
    size_t lines = lines_check(&symbols, positions, mean);
    if (lines && (classes.len != symbols.len || turned.len != symbols.len)) {
        fail("there is no room for the classes");
        lines = 0;
    }
    foretelling_t f;
    if (lines && !foretelling_new(&f, lines, (size_t)positions, mean)) {
        PyErr_NoMemory();
        lines = 0;
    }
    if (lines) {
        Py_BEGIN_ALLOW_THREADS
        for (size_t line = 0; line < lines; line += BAND) {
            const size_t at = line * (size_t)positions;
            band_begin(&f, line, lines - line < BAND ? lines - line : BAND);
            band_foretell(&f, (uint8_t *)symbols.buf + at, (uint8_t *)classes.buf + at, (uint8_t *)turned.buf + at);
        }
        foretelling_free(&f);
        Py_END_ALLOW_THREADS
    }
    release(buffers, 3);
    return lines ? Py_NewRef(Py_None) : NULL;
}

/* Where a decoder stands. */
typedef struct {
    const uint32_t *slots;
    const uint8_t *contexts; /* of each class */
    lanes_t state;
    size_t lanes, decoded;
    const uint16_t *next, *end;
} unwinding_t;

/* Decode the next n symbols of these classes; 0 if refills run out. */
static int unwind(unwinding_t *u, const uint8_t *classes, size_t n, uint8_t *symbols)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t *const state = u->state.of + ((u->decoded + i) & (u->lanes - 1));
        const uint32_t slot = u->slots[(size_t)u->contexts[classes[i]] << SCALE_BITS | (*state & (SCALE - 1))];
        uint32_t x = rans_advance(*state, slot);
        if (x < LOWEST) {
            if (u->next == u->end)
                return 0;
            x = x << REFILL_BITS | *u->next++;
        }
        symbols[i] = (uint8_t)(slot >> 22);
        *state = x;
    }
    u->decoded += n;
    return 1;
}

/* Write the symbols of a band; 0 if refills run out. */
static int band_decode(foretelling_t *f, unwinding_t *u, uint8_t *symbols)
{
    uint8_t classes[SPAN * BAND], minus[SPAN * BAND], known[SPAN * BAND];
    for (size_t begin = 0; begin < f->positions; begin += SPAN) {
        const size_t m = f->positions - begin < SPAN ? f->positions - begin : SPAN;
        tile_tell(f, begin, m, classes, minus);
        if (!unwind(u, classes, m * f->lines, known))
            return 0;
        turn_signs(known, minus, m * f->lines, known);
        for (size_t l = 0; l < f->lines; l++)
            for (size_t j = 0; j < m; j++)
                symbols[l * f->positions + begin + j] = known[j * f->lines + l];
        tile_learn(f, begin, m, known);
    }
    return 1;
}

/* Decode all lines; 1 if every state ends as it began. */
static int lines_decode(foretelling_t *f, unwinding_t *u, uint8_t *symbols, size_t lines)
{
    int whole = 1;
    for (size_t line = 0; line < lines && whole; line += BAND) {
        band_begin(f, line, lines - line < BAND ? lines - line : BAND);
        whole = band_decode(f, u, symbols + line * f->positions);
    }
    for (size_t j = 0; j < u->lanes; j++)
        whole &= u->state.of[j] == LOWEST;
    return whole;
}

PyDoc_STRVAR(foretold_decode_doc, "foretold_decode(positions, mean, contexts, frequencies, states, refills, symbols)\n"
                                  "--\n\nSee reference.foretold_decode.");

static PyObject *foretold_decode(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer contexts, frequencies, states, refills, symbols;
    Py_buffer *const buffers[] = {&contexts, &frequencies, &states, &refills, &symbols};
    Py_ssize_t positions, used = -1;
    int mean;
    if (!PyArg_ParseTuple(args, "niy*y*w*y*w*:foretold_decode", &positions, &mean, &contexts, &frequencies, &states,
                          &refills, &symbols))
        return NULL;
    const size_t count = (size_t)frequencies.len / 2 / MAX_SYMBOLS;
    size_t lines = coding_check(&frequencies, &states, &refills) ? lines_check(&symbols, positions, mean) : 0;
    if (lines && (contexts.len != FORETOLD_CLASSES || greatest(contexts.buf, FORETOLD_CLASSES) >= count)) {
        fail("a class has no table");
        lines = 0;
    }
    foretelling_t f;
    uint32_t *slots = lines ? PyMem_Malloc(count * SCALE * sizeof(uint32_t)) : NULL;
    if (lines && (slots == NULL || !foretelling_new(&f, lines, (size_t)positions, mean))) {
        PyMem_Free(slots);
        PyErr_NoMemory();
        lines = 0;
    }
    if (lines) {
        Py_BEGIN_ALLOW_THREADS
        unwinding_t u = {.slots = slots, .contexts = contexts.buf, .lanes = (size_t)states.len / 4,
                         .next = refills.buf, .end = (const uint16_t *)refills.buf + refills.len / 2};
        memcpy(u.state.of, states.buf, (size_t)states.len);
        rans_slots(frequencies.buf, count, 8, slots);
        if (lines_decode(&f, &u, symbols.buf, lines))
            used = u.next - (const uint16_t *)refills.buf;
        foretelling_free(&f);
        Py_END_ALLOW_THREADS
        PyMem_Free(slots);
    }
    release(buffers, 5);
    return lines ? PyLong_FromSsize_t(used) : NULL;
}

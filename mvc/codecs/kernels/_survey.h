/* What a writer wants to know of a plane before it codes it, as Python calls it; included once by _native.c.
 *
 * Integers only, so that the reference finds the same. Logarithms are in units of 2^-16 bits: those of 1 + i / 4096 are
 * given by the caller, for i from 0 to 4095.
 */

#define LOG_BITS 12
#define LOG_ENTRIES ((size_t)1 << LOG_BITS)
#define SURVEY_CHUNK ((size_t)1 << 13)
#define SURVEY_CHUNKS 3
#define SURVEY_NEAR 4096
#define SURVEY_WINDOW ((size_t)1 << 16)
#define SURVEY_STRIDE 16 /* words of 8 bytes */
#define SURVEY_FIELDS (3 + 2 * SURVEY_CHUNKS)
#define SURVEY_SLOTS 4096
#define HASH_FACTOR 0x9E3779B97F4A7C15u
#define ABOVE_LOWEST 0xFEFEFEFEFEFEFEFEu
#define PLAN_CONTEXTS 16
#define PLAN_MERGES 5       /* 1, 2, 4, 8 and 16 contexts made one */
#define PLAN_BINS 4096      /* parts of the range of means in which outliers are looked for */
#define PLAN_OUTLIERS 100   /* one stripe of so many, on either side */
#define SYMBOL_BITS 163840  /* 2.5 bits: what a symbol of a table takes */
#define PAIR_VALUES 64
#define PAIR_BYTES 16384    /* of a context from which pairs are counted: their counters must be collected, too */
#define CORRECTION 47274    /* 1 / (2 ln 2) bits for each symbol but one (Miller and Madow) */

/* n log2(n). */
static uint64_t times_log(uint64_t n, const uint32_t *logs)
{
    if (n == 0)
        return 0;
    const int whole = 63 - __builtin_clzll(n);
    const uint64_t part = whole > LOG_BITS ? n >> (whole - LOG_BITS) : n << (LOG_BITS - whole);
    return n * (((uint64_t)whole << 16) + logs[part & (LOG_ENTRIES - 1)]);
}

/* Equal neighbours would wait for each other's addition: so every byte has four counters. */
static void count_bytes(const uint8_t *bytes, size_t n, uint32_t (*four)[4])
{
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        uint64_t eight;
        memcpy(&eight, bytes + i, 8);
        for (unsigned k = 0; k < 8; k++)
            four[eight >> 8 * k & 0xFF][k & 3]++;
    }
    for (; i < n; i++)
        four[bytes[i]][0]++;
}

/* The same for pairs of bytes: half the additions, which is what counting takes its time for. Only bytes of a window of
 * PAIR_VALUES have counters in `pairs`, of which neighbours use different ones; others are counted in `four`. */
typedef struct {
    uint32_t pairs[2][PAIR_VALUES * PAIR_VALUES];
    uint64_t lowest; /* of the window, in each of eight bytes */
} pairs_t;

static void count_pairs(const uint8_t *bytes, size_t n, pairs_t *counting, uint32_t (*four)[4])
{
    const uint64_t outside = 0xC0C0C0C0C0C0C0C0u, even = 0x003F003F003F003Fu;
    uint32_t *const first = counting->pairs[0], *const second = counting->pairs[1];
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        uint64_t eight;
        memcpy(&eight, bytes + i, 8);
        eight -= counting->lowest; /* the first byte that is below its window tells, whatever it takes from the next */
        if (eight & outside) {
            count_bytes(bytes + i, 8, four);
            continue;
        }
        const uint64_t places = (eight & even) | (eight >> 2 & even << 6);
        first[places & 0xFFFF]++;
        second[places >> 16 & 0xFFFF]++;
        first[places >> 32 & 0xFFFF]++;
        second[places >> 48]++;
    }
    count_bytes(bytes + i, n - i, four);
}

/* Add the counts of pairs to those of bytes, and begin anew. */
static CLONES void collect_pairs(pairs_t *counting, uint32_t (*four)[4])
{
    uint32_t(*const window)[4] = four + (counting->lowest & 0xFF);
    uint32_t low[PAIR_VALUES] = {0};
    for (size_t high = 0; high < PAIR_VALUES; high++) {
        const uint32_t *first = counting->pairs[0] + high * PAIR_VALUES, *second = counting->pairs[1] + high * PAIR_VALUES;
        uint32_t sum = 0;
        for (size_t k = 0; k < PAIR_VALUES; k++) {
            low[k] += first[k] + second[k];
            sum += first[k] + second[k];
        }
        window[high][0] += sum;
    }
    for (size_t k = 0; k < PAIR_VALUES; k++)
        window[k][0] += low[k];
    memset(counting->pairs, 0, sizeof counting->pairs);
}

/* ---- survey -------------------------------------------------------------------------------------------------- */

static CLONES uint8_t differing_bits(const uint8_t *bytes, size_t n)
{
    uint8_t different = 0;
    for (size_t i = 0; i < n; i++)
        different |= bytes[i] ^ bytes[0];
    return different;
}

/* Bits that differ between any two bytes; the beginning mostly tells that all do. */
static uint8_t varying_bits(const uint8_t *bytes, size_t n)
{
    const size_t glance = n < 4096 ? n : 4096;
    const uint8_t different = differing_bits(bytes, glance);
    return different == 0xFF ? different : different | differing_bits(bytes, n) | (bytes[0] ^ bytes[n - 1]);
}

/* Add the pieces of a window to a set of `SURVEY_SLOTS` hashes; returns how many were in it. */
static size_t pieces_again(const uint8_t *window, size_t words, uint64_t *set)
{
    size_t again = 0;
    for (size_t i = 0; i + SURVEY_STRIDE <= words; i += SURVEY_STRIDE) {
        uint64_t pair[2];
        memcpy(pair, window + 8 * i, sizeof pair);
        const uint64_t hash = ((pair[0] & ABOVE_LOWEST) * HASH_FACTOR ^ (pair[1] & ABOVE_LOWEST)) * HASH_FACTOR;
        if (hash == 0)
            continue;
        size_t slot = hash >> 52;
        while (set[slot] != 0 && set[slot] != hash)
            slot = (slot + 1) % SURVEY_SLOTS;
        again += set[slot] == hash;
        set[slot] = hash;
    }
    return again;
}

/* How many of the 8 bytes that begin at each of n < 2^16 places stood at the last place with the same hash. Hashes that
 * did not occur lead to the first place: bytes equal to those there have its hash, so nothing is counted in error. */
static size_t near_again(const uint8_t *chunk, size_t n, uint16_t *last)
{
    size_t again = 0;
    memset(last, 0, SURVEY_SLOTS * sizeof *last);
    for (size_t i = 1; i + 8 <= n; i++) {
        uint64_t eight, before;
        memcpy(&eight, chunk + i, 8);
        const size_t slot = eight * HASH_FACTOR >> 52;
        memcpy(&before, chunk + last[slot], 8);
        again += before == eight;
        last[slot] = (uint16_t)i;
    }
    return again;
}

static uint64_t chunk_entropy(const uint8_t *chunk, size_t n, const uint32_t *logs)
{
    uint32_t four[MAX_SYMBOLS][4] = {{0}};
    uint64_t bits = times_log(n, logs), used = 0;
    count_bytes(chunk, n, four);
    for (size_t s = 0; s < MAX_SYMBOLS; s++) {
        const uint64_t count = (uint64_t)four[s][0] + four[s][1] + four[s][2] + four[s][3];
        bits -= times_log(count, logs);
        used += count > 0;
    }
    return bits + (used - 1) * CORRECTION;
}

static void survey_plane(const uint8_t *plane, size_t n, const uint32_t *logs, uint64_t *set, int64_t *found)
{
    const size_t first = n < SURVEY_WINDOW ? n : SURVEY_WINDOW;
    const size_t half = n / 16 * 8, middle = half > SURVEY_WINDOW ? half : SURVEY_WINDOW;
    const size_t second = n <= middle ? 0 : n - middle < SURVEY_WINDOW ? n - middle : SURVEY_WINDOW;
    found[0] = varying_bits(plane, n);
    found[1] = (int64_t)(pieces_again(plane, first / 8, set) + pieces_again(plane + (second ? middle : 0), second / 8, set));
    found[2] = (int64_t)(first / 8 / SURVEY_STRIDE + second / 8 / SURVEY_STRIDE);
    const size_t chunk = n < SURVEY_CHUNKS * SURVEY_CHUNK ? n : SURVEY_CHUNK;
    const size_t step = chunk == n ? n : (n - chunk) / (SURVEY_CHUNKS - 1);
    for (size_t start = 0, k = 3; start + chunk <= n && k < SURVEY_FIELDS; start += step, k += 2) {
        found[k] = (int64_t)chunk_entropy(plane + start, chunk, logs);
        found[k + 1] = (int64_t)near_again(plane + start, chunk < SURVEY_NEAR ? chunk : SURVEY_NEAR, (uint16_t *)set);
    }
}

PyDoc_STRVAR(survey_doc, "survey(plane, logs, found)\n--\n\nSee reference.survey.");

static PyObject *survey(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer plane, logs, found;
    Py_buffer *const buffers[] = {&plane, &logs, &found};
    if (!PyArg_ParseTuple(args, "y*y*w*:survey", &plane, &logs, &found))
        return NULL;
    int good = plane.len > 0 && (size_t)logs.len == 4 * LOG_ENTRIES && aligned(&logs, 4) &&
               found.len == 8 * SURVEY_FIELDS && aligned(&found, 8);
    uint64_t *set = good ? PyMem_Calloc(SURVEY_SLOTS, sizeof *set) : NULL;
    if (!good)
        fail("a survey needs a plane, 4096 logarithms and 9 fields");
    else if (set == NULL)
        PyErr_NoMemory();
    if (set != NULL) {
        Py_BEGIN_ALLOW_THREADS
        memset(found.buf, 0, (size_t)found.len);
        survey_plane(plane.buf, (size_t)plane.len, logs.buf, set, found.buf);
        Py_END_ALLOW_THREADS
        PyMem_Free(set);
    }
    release(buffers, 3);
    return set != NULL ? Py_NewRef(Py_None) : NULL;
}

/* ---- contexts of stripes ------------------------------------------------------------------------------------- */

static CLONES uint32_t sum_bytes(const uint8_t *bytes, size_t n)
{
    uint32_t sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += bytes[i];
    return sum;
}

/* Write the mean of each stripe, in units of 2^-12, and return the least and the largest. */
static void stripe_means(const uint8_t *plane, size_t n, size_t stripe, uint32_t *means, uint32_t range[2])
{
    range[0] = UINT32_MAX, range[1] = 0;
    for (size_t start = 0; start < n; start += stripe) {
        const size_t m = n - start < stripe ? n - start : stripe;
        const uint32_t mean = (uint32_t)(((uint64_t)sum_bytes(plane + start, m) << 12) / m);
        *means++ = mean;
        range[0] = mean < range[0] ? mean : range[0];
        range[1] = mean > range[1] ? mean : range[1];
    }
}

/* Put each stripe into one of 16 equal parts of the range of means, but for outliers, which join the first or last. */
static void place_stripes(const uint8_t *plane, size_t n, size_t stripe, uint32_t *means, uint8_t *contexts)
{
    const size_t stripes = (n + stripe - 1) / stripe, outliers = stripes / PLAN_OUTLIERS;
    uint32_t range[2], bins[PLAN_BINS] = {0};
    stripe_means(plane, n, stripe, means, range);
    for (size_t i = 0; i < stripes; i++) {
        means[i] = (uint32_t)((uint64_t)(means[i] - range[0]) * PLAN_BINS / ((uint64_t)range[1] - range[0] + 1));
        bins[means[i]]++;
    }
    size_t low = 0, high = PLAN_BINS - 1;
    for (size_t below = bins[low]; below <= outliers; below += bins[low])
        low++;
    for (size_t above = bins[high]; above <= outliers; above += bins[high])
        high--;
    for (size_t i = 0; i < stripes; i++) {
        const uint32_t bin = means[i] < low ? (uint32_t)low : means[i] > high ? (uint32_t)high : means[i];
        contexts[i] = (uint8_t)((bin - low) * PLAN_CONTEXTS / (high - low + 1));
    }
}

/* What is known of the contexts before any of them are made one. */
typedef struct {
    uint32_t *counts;               /* of each byte in each context */
    uint32_t sizes[PLAN_CONTEXTS];  /* in stripes */
    size_t first, last;             /* bytes that occur */
} plan_t;

/* Bits of a plane, less a constant, if 2^merge contexts are made one. */
static int64_t plan_cost(const plan_t *plan, int merge, const uint32_t *logs)
{
    int64_t cost = 0;
    for (size_t c = 0; c < PLAN_CONTEXTS; c += (size_t)1 << merge) {
        uint64_t total = 0, size = 0;
        for (size_t k = c; k < c + ((size_t)1 << merge); k++)
            size += plan->sizes[k];
        if (size == 0)
            continue;
        for (size_t s = plan->first; s <= plan->last; s++) {
            uint64_t count = 0;
            for (size_t k = c; k < c + ((size_t)1 << merge); k++)
                count += plan->counts[k * MAX_SYMBOLS + s];
            total += count;
            cost -= (int64_t)times_log(count, logs);
            cost += count ? SYMBOL_BITS : 0;
        }
        cost += (int64_t)times_log(total, logs) - (int64_t)times_log(size, logs);
    }
    return cost;
}

/* Make 2^merge contexts one, and leave out those without stripes; returns how many are left. */
static size_t merge_contexts(const plan_t *plan, int merge, uint8_t *contexts, size_t stripes)
{
    uint8_t number[PLAN_CONTEXTS];
    size_t left = 0;
    for (size_t c = 0; c < PLAN_CONTEXTS; c += (size_t)1 << merge) {
        uint32_t size = 0, merged[MAX_SYMBOLS] = {0};
        for (size_t k = c; k < c + ((size_t)1 << merge); k++) {
            number[k] = (uint8_t)left;
            size += plan->sizes[k];
            for (size_t s = 0; s < MAX_SYMBOLS; s++)
                merged[s] += plan->counts[k * MAX_SYMBOLS + s];
        }
        if (size)
            memcpy(plan->counts + left++ * MAX_SYMBOLS, merged, sizeof merged);
    }
    for (size_t i = 0; i < stripes; i++)
        contexts[i] = number[contexts[i]];
    return left;
}

/* Working memory of a plan. */
typedef struct {
    pairs_t counting;
    uint32_t four[MAX_SYMBOLS][4];
    uint32_t stripes[]; /* first the mean of each, then their numbers in the order of their contexts */
} planning_t;

static void order_stripes(const uint8_t *contexts, size_t stripes, const uint32_t *sizes, uint32_t *order)
{
    uint32_t next[PLAN_CONTEXTS] = {0};
    for (size_t c = 1; c < PLAN_CONTEXTS; c++)
        next[c] = next[c - 1] + sizes[c - 1];
    for (size_t i = 0; i < stripes; i++)
        order[next[contexts[i]]++] = (uint32_t)i;
}

/* Count the bytes of the `count` stripes of one context. */
static void count_stripes(const uint8_t *plane, size_t n, size_t stripe, const uint32_t *order, size_t count,
                          planning_t *memory)
{
    const int by_pairs = count * stripe >= PAIR_BYTES && n >= PAIR_BYTES;
    memset(memory->four, 0, sizeof memory->four);
    for (size_t k = 0; k < count; k++) {
        const size_t start = order[k] * stripe, m = n - start < stripe ? n - start : stripe;
        if (by_pairs)
            count_pairs(plane + start, m, &memory->counting, memory->four);
        else
            count_bytes(plane + start, m, memory->four);
    }
    if (by_pairs)
        collect_pairs(&memory->counting, memory->four);
}

/* Count the bytes of each context. */
static void plan_counts(const uint8_t *plane, size_t n, size_t stripe, const uint8_t *contexts, planning_t *memory,
                        plan_t *plan)
{
    const size_t stripes = (n + stripe - 1) / stripe;
    const uint32_t *order = memory->stripes;
    for (size_t i = 0; i < stripes; i++)
        plan->sizes[contexts[i]]++;
    order_stripes(contexts, stripes, plan->sizes, memory->stripes);
    plan->first = MAX_SYMBOLS - 1;
    plan->last = greatest(plane, n);
    memset(plan->counts, 0, PLAN_CONTEXTS * MAX_SYMBOLS * sizeof *plan->counts);
    if (n >= PAIR_BYTES)
        memset(memory->counting.pairs, 0, sizeof memory->counting.pairs);
    memory->counting.lowest = 0x0101010101010101u * (plan->last < PAIR_VALUES ? 0 : plan->last + 1 - PAIR_VALUES);
    for (size_t c = 0; c < PLAN_CONTEXTS; order += plan->sizes[c++]) {
        if (plan->sizes[c] == 0)
            continue;
        count_stripes(plane, n, stripe, order, plan->sizes[c], memory);
        for (size_t s = 0; s < MAX_SYMBOLS; s++) {
            const uint32_t *each = memory->four[s], count = each[0] + each[1] + each[2] + each[3];
            plan->counts[c * MAX_SYMBOLS + s] = count;
            plan->first = count && s < plan->first ? s : plan->first;
        }
    }
}

static size_t plan_stripes(const uint8_t *plane, size_t n, size_t stripe, const uint32_t *logs, planning_t *memory,
                           uint8_t *contexts, uint32_t *counts)
{
    const size_t stripes = (n + stripe - 1) / stripe;
    plan_t plan = {.counts = counts};
    int best = 0;
    place_stripes(plane, n, stripe, memory->stripes, contexts);
    plan_counts(plane, n, stripe, contexts, memory, &plan);
    if (stripes == 1)
        return 1;
    int64_t least = plan_cost(&plan, 0, logs);
    for (int merge = 1; merge < PLAN_MERGES; merge++) {
        const int64_t cost = plan_cost(&plan, merge, logs);
        best = cost < least ? merge : best;
        least = cost < least ? cost : least;
    }
    return merge_contexts(&plan, best, contexts, stripes);
}

PyDoc_STRVAR(stripe_plan_doc, "stripe_plan(plane, stripe, logs, contexts, counts)\n--\n\nSee reference.stripe_plan.");

static PyObject *stripe_plan(PyObject *Py_UNUSED(module), PyObject *args)
{
    Py_buffer plane, logs, contexts, counts;
    Py_buffer *const buffers[] = {&plane, &logs, &contexts, &counts};
    Py_ssize_t stripe;
    size_t found = 0;
    if (!PyArg_ParseTuple(args, "y*ny*w*w*:stripe_plan", &plane, &stripe, &logs, &contexts, &counts))
        return NULL;
    const size_t n = (size_t)plane.len;
    const int good = n > 0 && n <= MAX_WORDS && stripe > 0 &&
                     (size_t)contexts.len == (n - 1) / (size_t)stripe + 1 && (size_t)logs.len == 4 * LOG_ENTRIES &&
                     aligned(&logs, 4) && counts.len == 4 * PLAN_CONTEXTS * MAX_SYMBOLS && aligned(&counts, 4);
    planning_t *memory = good ? PyMem_Malloc(sizeof *memory + 4 * (size_t)contexts.len) : NULL;
    if (!good)
        fail("a plan needs a plane, 4096 logarithms, a context for each stripe and 16 tables");
    else if (memory == NULL)
        PyErr_NoMemory();
    else {
        Py_BEGIN_ALLOW_THREADS
        found = plan_stripes(plane.buf, n, (size_t)stripe, logs.buf, memory, contexts.buf, counts.buf);
        Py_END_ALLOW_THREADS
    }
    PyMem_Free(memory);
    release(buffers, 4);
    return found ? PyLong_FromSize_t(found) : NULL;
}

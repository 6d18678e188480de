/* The loops of _native.c for words of BITS bits; included once for each of 8, 16, 32 and 64.
 *
 * The meaning of every loop is that of the function of the same name in reference.py. All arithmetic is on unsigned
 * integers, modulo 2^BITS; words are loaded and stored by memcpy, so buffers need no alignment. Callers have checked
 * every length.
 */

#define PASTE2(a, b) a##b
#define PASTE(a, b) PASTE2(a, b)
#define FN(name) PASTE(name, BITS)
#define W PASTE(PASTE(uint, BITS), _t)
#define WORD_BYTES (BITS / 8)
#define TOP ((W)((W)1 << (BITS - 1)))

static inline W FN(load_)(const uint8_t *p, size_t i)
{
    W w;
    memcpy(&w, p + i * WORD_BYTES, WORD_BYTES);
    return w;
}

static inline void FN(store_)(uint8_t *p, size_t i, W w)
{
    memcpy(p + i * WORD_BYTES, &w, WORD_BYTES);
}

/* All ones if the top bit of w is set, else zero. */
static inline W FN(sign_)(W w)
{
    return (W)((W)0 - (W)(w >> (BITS - 1)));
}

static inline W FN(ordered_)(W x)
{
    return (W)(x ^ (W)(FN(sign_)(x) | TOP));
}

static inline W FN(unordered_)(W o)
{
    return (W)(o ^ (W)((W)~FN(sign_)(o) | TOP));
}

static inline W FN(forward_)(W t, W b, int is_float)
{
    W d;
    if (is_float) {
        W s = FN(sign_)(b);
        d = (W)(FN(ordered_)(t) - FN(ordered_)(b));
        d = (W)((W)(d ^ s) - s);
    } else {
        d = (W)(t - b);
    }
    return (W)((W)(d << 1) ^ FN(sign_)(d));
}

static inline W FN(inverse_)(W u, W b, int is_float)
{
    W d = (W)((W)(u >> 1) ^ (W)((W)0 - (W)(u & 1)));
    if (is_float) {
        W s = FN(sign_)(b);
        d = (W)((W)(d ^ s) - s);
        return FN(unordered_)((W)(FN(ordered_)(b) + d));
    }
    return (W)(b + d);
}

#if BITS == 8
#define EACH_BYTE(DO) DO(0)
#elif BITS == 16
#define EACH_BYTE(DO) DO(0) DO(1)
#elif BITS == 32
#define EACH_BYTE(DO) DO(0) DO(1) DO(2) DO(3)
#else
#define EACH_BYTE(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7)
#endif

/* Planes never overlap each other or the words: Python's callers allot them. */
static CLONES void FN(split_)(const uint8_t *restrict words, uint8_t *const *planes, size_t n, int rotate)
{
#define OPEN(k) uint8_t *restrict plane##k = planes[k];
#define PUT(k) plane##k[i] = (uint8_t)(w >> (8 * k));
    EACH_BYTE(OPEN)
    if (rotate)
        for (size_t i = 0; i < n; i++) {
            W w = FN(load_)(words, i);
            w = (W)((W)(w << 1) | (W)(w >> (BITS - 1)));
            EACH_BYTE(PUT)
        }
    else
        for (size_t i = 0; i < n; i++) {
            W w = FN(load_)(words, i);
            EACH_BYTE(PUT)
        }
#undef OPEN
#undef PUT
}

static CLONES void FN(join_)(const uint8_t *const *planes, uint8_t *restrict words, size_t n, int rotate)
{
#define OPEN(k) const uint8_t *restrict plane##k = planes[k];
#define GET(k) w = (W)(w | (W)((W)plane##k[i] << (8 * k)));
    EACH_BYTE(OPEN)
    if (rotate)
        for (size_t i = 0; i < n; i++) {
            W w = 0;
            EACH_BYTE(GET)
            FN(store_)(words, i, (W)((W)(w >> 1) | (W)(w << (BITS - 1))));
        }
    else
        for (size_t i = 0; i < n; i++) {
            W w = 0;
            EACH_BYTE(GET)
            FN(store_)(words, i, w);
        }
#undef OPEN
#undef GET
}

static CLONES void FN(deltas_)(const uint8_t *target, const uint8_t *base, uint8_t *u, size_t n, int is_float)
{
    if (is_float)
        for (size_t i = 0; i < n; i++)
            FN(store_)(u, i, FN(forward_)(FN(load_)(target, i), FN(load_)(base, i), 1));
    else
        for (size_t i = 0; i < n; i++)
            FN(store_)(u, i, FN(forward_)(FN(load_)(target, i), FN(load_)(base, i), 0));
}

static inline uint32_t FN(bit_length_)(W u)
{
#if BITS == 64
    return bit_length64(u);
#else
    return bit_length32(u);
#endif
}

/* Bit length of u plus exponent field of base for each of n <= TILE words; 0 where u is zero. */
static CLONES void FN(word_sizes_)(const uint8_t *u, const uint8_t *base, uint32_t *restrict sizes, size_t n,
                                   number_t number)
{
    const W mask = (W)(((W)1 << number.exponent_bits) - 1);
    const int shift = number.mantissa_bits;
    for (size_t i = 0; i < n; i++) {
        uint32_t length = FN(bit_length_)(FN(load_)(u, i));
        uint32_t exponent = (uint32_t)((W)(FN(load_)(base, i) >> shift) & mask);
        sizes[i] = length ? length + exponent : 0;
    }
}

/* The same for the first `measured` of every ROW_BLOCK among n <= TILE words; returns how many these are. */
static size_t FN(measured_sizes_)(const uint8_t *u, const uint8_t *base, uint32_t *sizes, size_t n, size_t measured,
                                  number_t number)
{
    size_t count = 0;
    if (measured == ROW_BLOCK) {
        FN(word_sizes_)(u, base, sizes, n, number);
        return n;
    }
    for (size_t start = 0; start < n; start += ROW_BLOCK) {
        const size_t m = n - start < measured ? n - start : measured;
        FN(word_sizes_)(u + start * WORD_BYTES, base + start * WORD_BYTES, sizes + count, m, number);
        count += m;
    }
    return count;
}

/* The two sizes of a row (reference.measure). */
static void FN(row_sizes_)(const uint8_t *u, const uint8_t *base, size_t n, size_t measured, number_t number,
                           int64_t *row)
{
    uint32_t sizes[TILE], top = 0;
    uint64_t weight = 0;
    size_t count = 0;
    for (size_t i = 0; i < n && measured; i += TILE) {
        const size_t at = i * WORD_BYTES, m = n - i < TILE ? n - i : TILE;
        count = FN(measured_sizes_)(u + at, base + at, sizes, m, measured, number);
        top = largest_size(sizes, count, top);
    }
    for (size_t i = 0; i < n && top; i += TILE) {
        const size_t at = i * WORD_BYTES, m = n - i < TILE ? n - i : TILE;
        if (n > TILE)
            count = FN(measured_sizes_)(u + at, base + at, sizes, m, measured, number);
        weight += tile_weight(sizes, count, top);
    }
    row[0] = top;
    row[1] = (int64_t)weight;
}

static void FN(measure_)(const uint8_t *target, const uint8_t *base, uint8_t *u, size_t n, size_t row_words,
                         size_t measured, number_t number, int64_t *sizes)
{
    for (size_t start = 0; start < n; start += row_words, sizes += 2) {
        size_t m = n - start < row_words ? n - start : row_words;
        size_t at = start * WORD_BYTES;
        FN(deltas_)(target + at, base + at, u + at, m, number.exponent_bits > 0);
        FN(row_sizes_)(u + at, base + at, m, measured, number, sizes);
    }
}

static CLONES uint32_t FN(max_exponent_)(const uint8_t *base, size_t n, number_t number)
{
    const W mask = (W)((W)(((W)1 << number.exponent_bits) - 1) << number.mantissa_bits);
    W largest = 0;
    for (size_t i = 0; i < n; i++) {
        W e = (W)(FN(load_)(base, i) & mask);
        largest = e > largest ? e : largest;
    }
    return (uint32_t)(largest >> number.mantissa_bits);
}

/* min(start - 2 e, cap) for the words of one row; `start` is r + 2 E, below 2^13. */
static CLONES void FN(row_keys_)(const uint8_t *base, uint16_t *restrict keys, size_t n, uint16_t start, uint16_t cap,
                                 number_t number)
{
#if BITS == 8
    const uint16_t mask = (uint16_t)(((1 << number.exponent_bits) - 1) << 1);
    for (size_t i = 0; i < n; i++) {
        uint16_t twice_e = (uint16_t)(((unsigned)base[i] << 1 >> number.mantissa_bits) & mask);
#else
    const W mask = (W)((((W)1 << number.exponent_bits) - 1) << 1);
    const int low = number.mantissa_bits - 1;
    for (size_t i = 0; i < n; i++) {
        uint16_t twice_e = (uint16_t)((W)(FN(load_)(base, i) >> low) & mask);
#endif
        uint16_t key = (uint16_t)(start - twice_e);
        keys[i] = key < cap ? key : cap;
    }
}

/* Append the `mantissa` leading mantissa bits of each base word to its key. */
static CLONES void FN(mantissa_keys_)(const uint8_t *base, uint16_t *restrict keys, size_t n, number_t number,
                                      int mantissa)
{
    const W mask = (W)(((W)1 << mantissa) - 1);
    const int low = number.mantissa_bits - mantissa;
    for (size_t i = 0; i < n; i++)
        keys[i] = (uint16_t)((unsigned)keys[i] << mantissa | (unsigned)((W)(FN(load_)(base, i) >> low) & mask));
}

/* The keys of words start .. end-1; `doubled` is 2 E. */
static void FN(range_keys_)(const uint8_t *base, const uint8_t *rows, uint16_t *keys, size_t start, size_t end,
                            size_t row_words, number_t number, int mantissa, uint32_t doubled)
{
    const int is_float = number.exponent_bits > 0;
    const uint16_t cap = key_cap(mantissa);
    for (size_t i = start, m; i < end; i += m, keys += m) {
        size_t row = i / row_words, left = row_words - i % row_words;
        const uint8_t *words = base + i * WORD_BYTES;
        m = end - i < left ? end - i : left;
        if (is_float)
            FN(row_keys_)(words, keys, m, (uint16_t)(rows[row] + doubled), cap, number);
        else
            for (size_t k = 0; k < m; k++)
                keys[k] = rows[row];
        if (mantissa)
            FN(mantissa_keys_)(words, keys, m, number, mantissa);
    }
}

static uint32_t FN(doubled_)(const uint8_t *base, size_t n, number_t number)
{
    return number.exponent_bits > 0 ? 2 * FN(max_exponent_)(base, n, number) : 0;
}

static void FN(keys_)(const uint8_t *base, const uint8_t *rows, uint16_t *keys, size_t n, size_t row_words,
                      number_t number, int mantissa)
{
    FN(range_keys_)(base, rows, keys, 0, n, row_words, number, mantissa, FN(doubled_)(base, n, number));
}

/* Move each word to the next place of its key. */
static void FN(scatter_)(const uint8_t *u, const uint16_t *keys, uint32_t *next, uint8_t *sorted, size_t n)
{
    for (size_t i = 0; i < n; i++)
        FN(store_)(sorted, next[keys[i]]++, FN(load_)(u, i));
}

static CLONES void FN(undelta_)(const uint8_t *base, uint8_t *words, size_t n, int is_float)
{
    if (is_float)
        for (size_t i = 0; i < n; i++)
            FN(store_)(words, i, FN(inverse_)(FN(load_)(words, i), FN(load_)(base, i), 1));
    else
        for (size_t i = 0; i < n; i++)
            FN(store_)(words, i, FN(inverse_)(FN(load_)(words, i), FN(load_)(base, i), 0));
}

/* Undo scatter_, and then the deltas while the words are in the cache. */
static void FN(gather_)(const uint8_t *sorted, const uint8_t *base, const uint16_t *keys, uint32_t *next,
                        uint8_t *target, size_t n, int is_float)
{
    for (size_t start = 0; start < n; start += TILE) {
        size_t end = n - start < TILE ? n : start + TILE;
        for (size_t i = start; i < end; i++)
            FN(store_)(target, i, FN(load_)(sorted, next[keys[i]]++));
        FN(undelta_)(base + start * WORD_BYTES, target + start * WORD_BYTES, end - start, is_float);
    }
}

/* The symbol of a delta (spec-v1, section 6.5, step 1). In this form compilers make vector code of it: exponent and two
 * leading bits of the delta as a float, where the low bits of a large one are cleared lest it be rounded up. */
static inline uint8_t FN(symbol_)(W u)
{
#if BITS == 64
    uint32_t length = bit_length64(u);
    return (uint8_t)(u < 16 ? u : 4 * length - 4 + ((u >> (length - 3)) & 3));
#else
#if BITS == 32
    float number = (float)(u >> 24 ? u & 0xFFFFFF00u : u);
#else
    float number = (float)(int32_t)u;
#endif
    int32_t bits;
    memcpy(&bits, &number, sizeof bits);
    int32_t symbol = (bits >> 21) - 508; /* 16 for a delta of 16, below that for smaller ones */
    return (uint8_t)(symbol < 16 ? (int32_t)u : symbol);
#endif
}

static CLONES void FN(symbols_)(const uint8_t *restrict u, uint8_t *restrict symbols, size_t n)
{
    for (size_t i = 0; i < n; i++)
        symbols[i] = FN(symbol_)(FN(load_)(u, i));
}

/* The raw bits of a word, and how many they are. */
static inline uint64_t FN(raw_part_)(const uint8_t *u, const uint8_t *symbols, size_t place, uint32_t *bits)
{
    *bits = raw_bits(symbols[place]);
    return FN(load_)(u, place) & (((uint64_t)1 << *bits) - 1);
}

/* Append at most 56 bits to a stream of which fewer than 8 wait. */
static inline void FN(append_)(uint64_t value, uint32_t bits, stream_t *stream)
{
    stream->waiting |= value << stream->count;
    stream->count += bits;
    memcpy(stream->next, &stream->waiting, 8);
    stream->next += stream->count >> 3;
    stream->waiting >>= stream->count & ~7u;
    stream->count &= 7;
}

/* Append the raw bits of the words at `places` to a stream, whose buffer has room for 8 bytes more than they need. */
static CLONES void FN(put_bits_)(const uint8_t *u, const uint8_t *symbols, const uint16_t *places, size_t n,
                                 stream_t *given)
{
    stream_t stream = *given;
    size_t i = 0;
    uint32_t bits;
#if BITS <= 16
    for (; i + 4 <= n; i += 4) { /* four have at most 52 bits; put together first, they wait for each other less */
        uint32_t each[4];
        const uint64_t a = FN(raw_part_)(u, symbols, places[i], each);
        const uint64_t b = FN(raw_part_)(u, symbols, places[i + 1], each + 1);
        const uint64_t c = FN(raw_part_)(u, symbols, places[i + 2], each + 2);
        const uint64_t d = FN(raw_part_)(u, symbols, places[i + 3], each + 3);
        const uint32_t half = each[0] + each[1];
        FN(append_)(a | b << each[0] | (c | d << each[2]) << half, half + each[2] + each[3], &stream);
    }
#endif
    for (; i < n; i++) {
        uint64_t value = FN(raw_part_)(u, symbols, places[i], &bits);
#if BITS == 64
        if (bits > 32) {
            FN(append_)(value & 0xFFFFFFFFu, 32, &stream);
            value >>= 32;
            bits -= 32;
        }
#endif
        FN(append_)(value, bits, &stream);
    }
    *given = stream;
}

/* The least delta of each symbol: its leading bits, with zeros for the raw ones. */
static CLONES void FN(leading_)(const uint8_t *restrict symbols, uint8_t *restrict u, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        W s = symbols[i];
        FN(store_)(u, i, s < 16 ? s : (W)((W)(4 + (s & 3)) << ((s >> 2) - 2)));
    }
}

/* Add the raw bits to the deltas at `places`; returns the place of the next bit in the stream of nbytes. */
static CLONES size_t FN(take_bits_)(const uint8_t *symbols, const uint16_t *places, size_t n, const uint8_t *stream,
                                    size_t nbytes, size_t at, uint8_t *u)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t count = raw_bits(symbols[places[i]]);
        uint64_t window = load_bits(stream, nbytes, at);
#if BITS == 64
        if (count > 32)
            window = (window & 0xFFFFFFFFu) | load_bits(stream, nbytes, at + 32) << 32;
#endif
        uint64_t value = window & (((uint64_t)1 << count) - 1);
        FN(store_)(u, places[i], (W)(FN(load_)(u, places[i]) | value));
        at += count;
    }
    return at;
}

#undef PASTE2
#undef PASTE
#undef FN
#undef W
#undef WORD_BYTES
#undef TOP
#undef EACH_BYTE
#undef BITS

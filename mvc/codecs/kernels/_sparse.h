/* The loops of sparse deltas for words of BITS bits; included by _native.c once for each of 8, 16, 32 and 64, behind
 * _words.h, whose functions they use. Callers have checked every length.
 */

#define PASTE2(a, b) a##b
#define PASTE(a, b) PASTE2(a, b)
#define FN(name) PASTE(name, BITS)
#define W PASTE(PASTE(uint, BITS), _t)
#define WORD_BYTES (BITS / 8)

/* For each word 1 if it differs, else 0. */
static CLONES void FN(differ_)(const uint8_t *target, const uint8_t *base, size_t n, uint8_t *restrict flags)
{
    for (size_t i = 0; i < n; i++)
        flags[i] = FN(load_)(target, i) != FN(load_)(base, i);
}

/* Tiles of equal words are passed over by memcmp, eight equal words by one test. Returns the number of changed words, or
 * SIZE_MAX if there are more than `most`. */
static size_t FN(changes_)(const uint8_t *target, const uint8_t *base, size_t n, int is_float, uint32_t *positions,
                           uint8_t *deltas, size_t most)
{
    uint8_t flags[TILE];
    size_t k = 0;
    for (size_t start = 0; start < n; start += TILE) {
        const size_t m = n - start < TILE ? n - start : TILE;
        const uint8_t *t = target + start * WORD_BYTES, *b = base + start * WORD_BYTES;
        if (memcmp(t, b, m * WORD_BYTES) == 0)
            continue;
        memset(flags + (m & ~(size_t)7), 0, m % 8 ? 8 : 0); /* what lies behind the last word does not differ */
        FN(differ_)(t, b, m, flags);
        for (size_t eight = 0; eight < m; eight += 8) {
            for (uint64_t x = load_64(flags, eight / 8); x; x &= x - 1) {
                const size_t i = eight + (size_t)__builtin_ctzll(x) / 8;
                if (k == most)
                    return SIZE_MAX;
                positions[k] = (uint32_t)(start + i);
                FN(store_)(deltas, k, (W)(FN(forward_)(FN(load_)(t, i), FN(load_)(b, i), is_float) - 1));
                k++;
            }
        }
    }
    return k;
}

/* For each word 8 times its class: where the counter of the class lies in a u64. `top` is at most 2047. */
static CLONES void FN(class_shifts_)(const uint8_t *base, size_t n, number_t number, int top, uint8_t *restrict shifts)
{
#if BITS <= 16
    typedef int16_t exponent_t;
#else
    typedef int32_t exponent_t;
#endif
    const W mask = (W)(((W)1 << number.exponent_bits) - 1);
    const int low = number.mantissa_bits;
    for (size_t i = 0; i < n; i++) {
        exponent_t c = (exponent_t)(top - (exponent_t)((W)(FN(load_)(base, i) >> low) & mask));
        c = c < 0 ? 0 : c;
        c = c > CLASSES - 1 ? CLASSES - 1 : c;
        shifts[i] = (uint8_t)(c * 8);
    }
}

static void FN(gaps_)(const uint8_t *base, size_t n, number_t number, int top, const uint32_t *positions,
                      size_t count, uint32_t *gaps, uint8_t *classes)
{
    uint8_t shifts[TILE] = {0};
    uint32_t seen[CLASSES] = {0}, last[CLASSES] = {0};
    size_t k = 0;
    for (size_t start = 0; k < count; start += TILE) {
        const size_t m = n - start < TILE ? n - start : TILE;
        if (number.exponent_bits)
            FN(class_shifts_)(base + start * WORD_BYTES, m, number, top, shifts);
        k = tile_gaps(shifts, start, m, positions, k, count, gaps, classes, seen, last);
    }
}

static int FN(locate_)(const uint8_t *base, size_t n, number_t number, int top, const uint32_t *counts,
                       const uint32_t *gaps, uint32_t *positions)
{
    uint8_t shifts[TILE] = {0};
    finder_t finder;
    finder_start(&finder, counts, gaps, positions);
    for (size_t start = 0; start < n && finder.missing; start += TILE) {
        const size_t m = n - start < TILE ? n - start : TILE;
        if (number.exponent_bits)
            FN(class_shifts_)(base + start * WORD_BYTES, m, number, top, shifts);
        finder_tile(&finder, shifts, start, m);
    }
    return finder.missing == 0;
}

/* Every position is below the number of words. */
static void FN(patch_)(const uint8_t *restrict base, uint8_t *restrict target, size_t n, int is_float,
                       const uint32_t *positions, const uint8_t *deltas, size_t count)
{
    memcpy(target, base, n * WORD_BYTES);
    for (size_t k = 0; k < count; k++) {
        const size_t i = positions[k];
        FN(store_)(target, i, FN(inverse_)((W)(FN(load_)(deltas, k) + 1), FN(load_)(base, i), is_float));
    }
}

#undef PASTE2
#undef PASTE
#undef FN
#undef W
#undef WORD_BYTES
#undef BITS

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

/* Returns the number of changed words, or SIZE_MAX if there are more than `most`. */
static CLONES size_t FN(changes_)(const uint8_t *target, const uint8_t *base, size_t n, int is_float,
                                  uint32_t *positions, uint8_t *deltas, size_t most)
{
    uint8_t flags[TILE] = {0};
    uint16_t places[TILE + AT_ONCE];
    size_t k = 0;
    for (size_t start = 0; start < n; start += TILE) {
        const size_t m = n - start < TILE ? n - start : TILE;
        const uint8_t *t = target + start * WORD_BYTES, *b = base + start * WORD_BYTES;
        FN(differ_)(t, b, m, flags);
        const size_t found = flagged_places(flags, m, places);
        if (found > most - k)
            return SIZE_MAX;
        for (size_t j = 0; j < found; j++, k++) {
            const size_t i = places[j];
            positions[k] = (uint32_t)(start + i);
            FN(store_)(deltas, k, (W)(FN(forward_)(FN(load_)(t, i), FN(load_)(b, i), is_float) - 1));
        }
    }
    return k;
}

#if BITS <= 16
#define EXPONENT int16_t
#else
#define EXPONENT int32_t
#endif

/* The class of a word of a float; `top` is at most 2047. */
static inline uint8_t FN(class_)(W word, number_t number, int top)
{
    const W mask = (W)(((W)1 << number.exponent_bits) - 1);
    EXPONENT c = (EXPONENT)(top - (EXPONENT)((W)(word >> number.mantissa_bits) & mask));
    c = c < 0 ? 0 : c;
    return (uint8_t)(c > CLASSES - 1 ? CLASSES - 1 : c);
}

/* See reference.exponent. */
static int FN(exponent_)(const uint8_t *base, number_t number, const uint32_t *positions, size_t count, size_t step,
                         size_t above)
{
    const W mask = (W)(((W)1 << number.exponent_bits) - 1);
    uint32_t seen[MAX_EXPONENT + 1] = {0};
    for (size_t k = 0; k < count; k += step)
        seen[(W)(FN(load_)(base, positions[k]) >> number.mantissa_bits) & mask]++;
    int exponent = (int)mask;
    for (; exponent > 0 && above >= seen[exponent]; exponent--)
        above -= seen[exponent];
    return exponent;
}

static CLONES void FN(classes_)(const uint8_t *base, size_t n, number_t number, int top, uint8_t *restrict classes)
{
    for (size_t i = 0; i < n; i++)
        classes[i] = FN(class_)(FN(load_)(base, i), number, top);
}

/* Words of each class up to its last changed one, or up to a tile, and where the next gap of each class is written. */
typedef struct {
    uint32_t last[CLASSES], seen[CLASSES], next[CLASSES];
} FN(walk_t);

/* Write gaps and deltas of the changes from k on that lie below `end`, in the tile of `ranks`; the next k. */
static CLONES size_t FN(tile_gaps_)(FN(walk_t) * walk, const uint8_t *classes, const ranks_t *ranks, size_t start,
                                    size_t end, const uint32_t *positions, const uint8_t *deltas, size_t k,
                                    size_t count, uint32_t *gaps, uint8_t *ordered)
{
    for (; k < count && positions[k] < end; k++) {
        const size_t i = positions[k] - start;
        const int c = classes[i];
        const uint64_t below = ranks->members[i / BLOCK][c] & lowest_bits(i % BLOCK);
        const uint32_t rank = walk->seen[c] + ranks->before[i / BLOCK][c] + (uint32_t)__builtin_popcountll(below);
        const size_t at = walk->next[c]++;
        if (at < count) { /* unless another thread has changed the base since the classes were counted */
            gaps[at] = rank - walk->last[c];
            FN(store_)(ordered, at, FN(load_)(deltas, k));
        }
        walk->last[c] = rank + 1;
    }
    for (int c = 0; c < CLASSES; c++)
        walk->seen[c] += ranks->before[BLOCKS][c];
    return k;
}

/* Positions ascend and are below n. Without exponents all words are of class 0. */
static void FN(gaps_)(const uint8_t *base, size_t n, number_t number, int top, const uint32_t *positions,
                      const uint8_t *deltas, size_t count, uint32_t *counts, uint32_t *sums, uint32_t *gaps,
                      uint8_t *ordered)
{
    uint8_t classes[TILE] = {0};
    ranks_t ranks;
    FN(walk_t) walk = {{0}, {0}, {0}};
    memset(counts, 0, CLASSES * sizeof *counts);
    for (size_t k = 0; k < count; k++)
        counts[number.exponent_bits ? FN(class_)(FN(load_)(base, positions[k]), number, top) : 0]++;
    for (int c = 1; c < CLASSES; c++)
        walk.next[c] = walk.next[c - 1] + counts[c - 1];
    for (size_t start = 0, k = 0; k < count; start += TILE) {
        const size_t m = n - start < TILE ? n - start : TILE;
        if (number.exponent_bits)
            FN(classes_)(base + start * WORD_BYTES, m, number, top, classes);
        rank_tile(classes, m, &ranks);
        k = FN(tile_gaps_)(&walk, classes, &ranks, start, start + m, positions, deltas, k, count, gaps, ordered);
    }
    for (int c = 0; c < CLASSES; c++)
        sums[c] = walk.last[c] - counts[c];
}

static int FN(locate_)(const uint8_t *base, size_t n, number_t number, int top, const uint32_t *counts,
                       const uint32_t *gaps, uint32_t *positions)
{
    uint8_t classes[TILE] = {0};
    ranks_t ranks;
    finder_t finder;
    finder_start(&finder, counts, gaps, positions);
    for (size_t start = 0; start < n && finder.missing; start += TILE) {
        const size_t m = n - start < TILE ? n - start : TILE;
        if (number.exponent_bits)
            FN(classes_)(base + start * WORD_BYTES, m, number, top, classes);
        rank_tile(classes, m, &ranks);
        finder_tile(&finder, &ranks, (uint32_t)start);
    }
    return finder.missing == 0;
}

/* Write magnitudes as planes, and signs as the next bits of `stream`. */
static void FN(pack_values_)(const uint8_t *deltas, size_t count, uint8_t *const *planes, stream_t *stream)
{
    for (size_t k = 0; k < count; k++) {
        const W v = FN(load_)(deltas, k);
        put_bits(stream, v & 1, 1);
        for (int byte = 0; byte < WORD_BYTES; byte++)
            planes[byte][k] = (uint8_t)((W)(v >> 1) >> (8 * byte));
    }
}

/* Undo pack_values_; the signs begin at bit `place`. */
static void FN(unpack_values_)(const uint8_t *const *planes, size_t count, const uint8_t *bits, size_t place,
                               uint8_t *deltas)
{
    for (size_t k = 0; k < count; k++, place++) {
        W magnitude = 0;
        for (int byte = 0; byte < WORD_BYTES; byte++)
            magnitude = (W)(magnitude | (W)((W)planes[byte][k] << (8 * byte)));
        FN(store_)(deltas, k, (W)((W)(magnitude << 1) | ((bits[place / 8] >> place % 8) & 1)));
    }
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
#undef EXPONENT
#undef BITS

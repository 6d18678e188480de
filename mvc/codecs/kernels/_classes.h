/* Sparse deltas (spec-v1, section 6.7): classes of words, and the walk from changed word to changed word of a class. */

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

/* Sparse deltas (spec-v1, section 6.7): which words of a tile are of which class, and how many before each. */

static CLONES size_t largest_position(const uint32_t *positions, size_t count)
{
    uint32_t largest = 0;
    for (size_t k = 0; k < count; k++)
        largest = positions[k] > largest ? positions[k] : largest;
    return largest;
}

#define CLASSES 8
#define MAX_EXPONENT 2047 /* that of fp64 */
#define MAX_SHIFT 24      /* a frame has at most 2^24 words */
#define SKIP 255          /* the gap byte that goes on */
#define NO_GAP UINT32_MAX /* stands behind the last gap: more words than a frame has */
#define BLOCK 64          /* words looked at as the bits of one number */
#define HIGHEST_BIT ((uint64_t)1 << 63)
#define AT_ONCE 3 /* changed words of a block written without a branch; with 1 % changed few blocks have more */
#define BLOCKS (TILE / BLOCK)

#if defined(VECTOR_LANES) && !defined(MVC_NO_CLONES) /* the sanitizers see the forms for other machines */
#define X86_BITS
#endif

/* Bit i of the result is bit `bit` of byte i of BLOCK. */
static inline uint64_t gathered_bits(const uint8_t *bytes, int bit)
{
    uint64_t bits = 0;
#ifdef X86_BITS
    for (int i = 0; i < BLOCK; i += 16) {
        const __m128i top = _mm_slli_epi16(_mm_loadu_si128((const __m128i *)(bytes + i)), 7 - bit);
        bits |= (uint64_t)(uint32_t)_mm_movemask_epi8(top) << i;
    }
#else
    for (int i = 0; i < BLOCK; i += 8) {
        uint64_t x;
        memcpy(&x, bytes + i, 8);
        bits |= (((x >> bit) & 0x0101010101010101u) * 0x0102040810204080u) >> 56 << i; /* byte k to bit 56 + k */
    }
#endif
    return bits;
}

/* Ones for the first n bits. */
static inline uint64_t lowest_bits(size_t n)
{
    return n < 64 ? ((uint64_t)1 << n) - 1 : UINT64_MAX;
}

/* Where flags are set among the first m of TILE; returns how many there are. The first AT_ONCE places of a block are
 * written whether there are so many or not: that costs less than a loop whose end the processor cannot foresee. */
static CLONES size_t flagged_places(const uint8_t *flags, size_t m, uint16_t *places)
{
    size_t found = 0;
    for (size_t block = 0; block < m; block += BLOCK) {
        uint64_t set = gathered_bits(flags + block, 0) & lowest_bits(m - block);
        const size_t end = found + (size_t)__builtin_popcountll(set);
        for (size_t j = 0; j < AT_ONCE; j++, set &= set - 1)
            places[found + j] = (uint16_t)(block + (size_t)__builtin_ctzll(set | HIGHEST_BIT));
        for (size_t j = found + AT_ONCE; j < end; j++, set &= set - 1)
            places[j] = (uint16_t)(block + (size_t)__builtin_ctzll(set));
        found = end;
    }
    return found;
}

/* The words of a tile by class: as bits of each block, and how many lie in the blocks before it. */
typedef struct {
    uint64_t members[BLOCKS][CLASSES];
    uint16_t before[BLOCKS + 1][CLASSES];
} ranks_t;

#ifdef X86_BITS
/* Bit i of every lane is bit `bit` of byte i; inverted in the lanes of `flip`. */
__attribute__((target("avx512f,avx512bw,avx512vl"))) static inline __m512i lanes_of_bits(__m512i bytes, int bit,
                                                                                        __m512i flip)
{
    const __mmask64 set = _mm512_test_epi8_mask(bytes, _mm512_set1_epi8((char)(1 << bit)));
    return _mm512_xor_si512(_mm512_set1_epi64((int64_t)set), flip);
}

/* The number of ones of each lane. */
__attribute__((target("avx512f,avx512bw,avx512vl"))) static inline __m512i lanes_of_ones(__m512i x)
{
    const __m512i low = _mm512_set1_epi8(15),
                  ones = _mm512_broadcast_i32x4(_mm_set_epi8(4, 3, 3, 2, 3, 2, 2, 1, 3, 2, 2, 1, 2, 1, 1, 0));
    const __m512i right = _mm512_shuffle_epi8(ones, _mm512_and_si512(x, low));
    const __m512i left = _mm512_shuffle_epi8(ones, _mm512_and_si512(_mm512_srli_epi16(x, 4), low));
    return _mm512_sad_epu8(_mm512_add_epi8(right, left), _mm512_setzero_si512());
}

/* rank_words for TILE words: a lane for each class. */
__attribute__((target("avx512f,avx512bw,avx512vl"))) static void rank_tile_vectors(const uint8_t *classes,
                                                                                  ranks_t *ranks)
{
    const __m512i flip0 = _mm512_set_epi64(0, -1, 0, -1, 0, -1, 0, -1),
                  flip1 = _mm512_set_epi64(0, 0, -1, -1, 0, 0, -1, -1),
                  flip2 = _mm512_set_epi64(0, 0, 0, 0, -1, -1, -1, -1);
    __m512i seen = _mm512_setzero_si512();
    for (size_t b = 0; b < BLOCKS; b++) {
        const __m512i each = _mm512_loadu_si512(classes + b * BLOCK);
        const __m512i lower = _mm512_and_si512(lanes_of_bits(each, 0, flip0), lanes_of_bits(each, 1, flip1));
        const __m512i mine = _mm512_and_si512(lower, lanes_of_bits(each, 2, flip2));
        _mm512_storeu_si512(ranks->members[b], mine);
        _mm_storeu_si128((__m128i *)ranks->before[b], _mm512_cvtepi64_epi16(seen));
        seen = _mm512_add_epi64(seen, lanes_of_ones(mine));
    }
    _mm_storeu_si128((__m128i *)ranks->before[BLOCKS], _mm512_cvtepi64_epi16(seen));
}
#endif

/* `classes` holds TILE bytes, of which only the first m count. */
static CLONES void rank_words(const uint8_t *classes, size_t m, ranks_t *ranks)
{
    memset(ranks->before[0], 0, sizeof ranks->before[0]);
    for (size_t b = 0; b < BLOCKS; b++) {
        const uint64_t words = m > b * BLOCK ? lowest_bits(m - b * BLOCK) : 0;
        const uint64_t low = gathered_bits(classes + b * BLOCK, 0), middle = gathered_bits(classes + b * BLOCK, 1),
                       high = gathered_bits(classes + b * BLOCK, 2);
        for (int c = 0; c < CLASSES; c++) {
            const uint64_t mine = words & (c & 1 ? low : ~low) & (c & 2 ? middle : ~middle) & (c & 4 ? high : ~high);
            ranks->members[b][c] = mine;
            ranks->before[b + 1][c] = (uint16_t)(ranks->before[b][c] + __builtin_popcountll(mine));
        }
    }
}

static void rank_tile(const uint8_t *classes, size_t m, ranks_t *ranks)
{
#ifdef X86_BITS
    if (m == TILE && vectors_help()) {
        rank_tile_vectors(classes, ranks);
        return;
    }
#endif
    rank_words(classes, m, ranks);
}

/* Where the bit lies that has `rank` ones below it; x has more than `rank` ones. First the byte is found by the numbers
 * of ones up to each byte, then the bit in the same way, each spread over a byte. */
static inline uint32_t select_bit(uint64_t x, uint32_t rank)
{
    const uint64_t each = 0x0101010101010101u, tops = each << 7;
    uint64_t ones = x - ((x >> 1) & 0x5555555555555555u);
    ones = (ones & 0x3333333333333333u) + ((ones >> 2) & 0x3333333333333333u);
    ones = ((ones + (ones >> 4)) & 0x0F0F0F0F0F0F0F0Fu) * each; /* up to the end of each byte; at most 64 */
    const uint32_t byte = 8 * (uint32_t)__builtin_popcountll(((rank * each | tops) - ones) & tops);
    rank -= (uint32_t)((ones << 8) >> byte & 0xFF);
    uint64_t spread = ((x >> byte & 0xFF) * each) & 0x8040201008040201u;
    spread = ((spread + (tops - each)) | spread) & tops; /* the top bit of each byte that is not 0 */
    const uint64_t up_to = (spread >> 7) * each;
    return byte + (uint32_t)__builtin_popcountll(((rank * each | tops) - up_to) & tops);
}

/* Walks over the classes of words and stops at those that gaps lead to. For each class, `left` words are to be passed
 * over before the next changed one. */
typedef struct {
    const uint32_t *gap[CLASSES], *end[CLASSES];
    uint32_t *position[CLASSES];
    uint64_t left[CLASSES];
    size_t missing; /* changed words that are still to be found */
} finder_t;

static void finder_start(finder_t *finder, const uint32_t *counts, const uint32_t *gaps, uint32_t *positions)
{
    finder->missing = 0;
    for (int c = 0; c < CLASSES; c++) {
        finder->gap[c] = gaps + finder->missing;
        finder->position[c] = positions + finder->missing;
        finder->missing += counts[c];
        finder->end[c] = gaps + finder->missing;
        finder->left[c] = counts[c] ? *finder->gap[c] : NO_GAP;
    }
}

/* Where the word of a class lies that has `rank` others before it in the tile. */
static inline uint32_t place_of(const ranks_t *ranks, int c, uint32_t rank)
{
    size_t b = 0;
    for (size_t half = BLOCKS / 2; half; half /= 2)
        b += ranks->before[b + half][c] <= rank ? half : 0;
    return (uint32_t)(b * BLOCK) + select_bit(ranks->members[b][c], rank - ranks->before[b][c]);
}

/* Write the places that gaps lead to in the tile from word `start` of the frame on. */
static CLONES void finder_tile(finder_t *finder, const ranks_t *ranks, uint32_t start)
{
    for (int c = 0; c < CLASSES; c++) {
        const uint64_t words = ranks->before[BLOCKS][c];
        uint64_t rank = finder->left[c];
        if (rank < words) {
            const uint32_t *gap = finder->gap[c], *const end = finder->end[c];
            uint32_t *position = finder->position[c];
            do {
                *position++ = start + place_of(ranks, c, (uint32_t)rank);
                gap++;
                rank += 1 + (uint64_t)(gap < end ? *gap : NO_GAP);
            } while (rank < words);
            finder->missing -= (size_t)(gap - finder->gap[c]);
            finder->gap[c] = gap;
            finder->position[c] = position;
        }
        finder->left[c] = rank - words;
    }
}

/* Add `count` <= MAX_SHIFT bits to a stream; whole groups of 32 are written, the rest waits. */
static inline void put_bits(stream_t *stream, uint32_t bits, uint32_t count)
{
    stream->waiting |= (uint64_t)bits << stream->count;
    stream->count += count;
    if (stream->count >= 32) {
        memcpy(stream->next, &stream->waiting, 4);
        stream->next += 4;
        stream->waiting >>= 32;
        stream->count -= 32;
    }
}

/* Write the gap bytes of all classes and put the low bits into `stream`. Returns the number of gap bytes, or SIZE_MAX
 * if there are more than `room`. */
static size_t pack_gaps(const uint32_t *gaps, const uint32_t *counts, const uint32_t *shifts, uint8_t *units,
                        size_t room, stream_t *stream)
{
    size_t used = 0;
    for (int c = 0; c < CLASSES; c++) {
        const uint32_t shift = shifts[c], low = ((uint32_t)1 << shift) - 1;
        for (uint32_t k = 0; k < counts[c]; k++) {
            const uint32_t gap = *gaps++;
            uint32_t rest = gap >> shift;
            if (room - used < (size_t)rest / SKIP + 1)
                return SIZE_MAX;
            for (; rest >= SKIP; rest -= SKIP)
                units[used++] = SKIP;
            units[used++] = (uint8_t)rest;
            put_bits(stream, gap & low, shift);
        }
    }
    return used;
}

/* Undo pack_gaps, from the beginning of `bits`, which holds all the low bits; 0 if the `size` gap bytes are too few or
 * too many, or the gaps of a class cover more than `words`. */
static int unpack_gaps(const uint8_t *units, size_t size, const uint8_t *bits, size_t bit_bytes, const uint32_t *counts,
                       const uint32_t *shifts, size_t words, uint32_t *gaps)
{
    size_t used = 0, place = 0;
    for (int c = 0; c < CLASSES; c++) {
        const uint32_t shift = shifts[c], low = ((uint32_t)1 << shift) - 1;
        uint64_t covered = 0;
        for (uint32_t k = 0; k < counts[c]; k++, place += shift) {
            uint64_t sum = 0;
            while (used < size && units[used] == SKIP) {
                sum += SKIP;
                used++;
            }
            if (used == size)
                return 0;
            sum += units[used++];
            covered += sum;
            *gaps++ = (uint32_t)(sum << shift) | ((uint32_t)load_bits(bits, bit_bytes, place) & low);
        }
        if (covered > words >> shift)
            return 0;
    }
    return used == size;
}

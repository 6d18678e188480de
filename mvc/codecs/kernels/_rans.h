/* Interleaved rANS with static tables (spec-v1, section 6.5): symbols, each coded by the table of its context.
 *
 * J. Duda, "Asymmetric numeral systems", arXiv:1311.2540; interleaving and the choice of widths after F. Giesen,
 * "Interleaved entropy coders", arXiv:1402.3392. States are 32 bits and are refilled by 16 at once, so that no word takes
 * more than one refill. Callers have checked every length, and that the frequencies of each context sum to 2^SCALE_BITS.
 */

#define SCALE_BITS 11
#define SCALE (1u << SCALE_BITS)
#define REFILL_BITS 16
#define LOWEST (1u << REFILL_BITS) /* of a state between two words */
#define MAX_LANES 256
#define MAX_CONTEXTS 256
#define MAX_SYMBOLS 256 /* stride of `ranges` */

/* The states of all lanes: sixteen in a row lie in one line of the cache, else every vector would take two accesses. */
typedef struct {
    _Alignas(64) uint32_t of[MAX_LANES];
} lanes_t;

/* Fill ranges[256 c + s] with start << 11 | (frequency - 1) for every context and symbol that occurs. */
static void rans_ranges(const uint16_t *frequencies, size_t contexts, int symbol_bits, uint32_t *ranges)
{
    for (size_t c = 0; c < contexts; c++)
        for (size_t s = 0, start = 0; s >> symbol_bits == 0; s++) {
            size_t frequency = frequencies[c << symbol_bits | s];
            ranges[c * MAX_SYMBOLS + s] = (uint32_t)(start << SCALE_BITS | ((frequency - 1) & (SCALE - 1)));
            start += frequency;
        }
}

/* Encode words n-1 .. first; refills are written downwards from `end`. Returns the first of them. */
static uint16_t *rans_encode_some(const uint8_t *symbols, const uint8_t *contexts, size_t first, size_t n,
                                  const uint32_t *ranges, uint32_t *states, size_t lanes, uint16_t *end)
{
    for (size_t i = n; i-- > first;) {
        uint32_t range = ranges[(size_t)contexts[i] << 8 | symbols[i]];
        uint32_t frequency = (range & (SCALE - 1)) + 1, start = range >> SCALE_BITS;
        uint32_t x = states[i & (lanes - 1)];
        uint32_t full = x > (frequency << (32 - SCALE_BITS)) - 1; /* for a frequency of SCALE 2^32 - 1: never */
        end[-1] = (uint16_t)x;
        end -= full;
        x >>= full * REFILL_BITS;
        states[i & (lanes - 1)] = (x / frequency << SCALE_BITS) + x % frequency + start;
    }
    return end;
}

#ifdef VECTOR_LANES
#define VECTOR_TARGET __attribute__((target("avx512f,avx512bw,avx512vl")))
#define ROUND_DOWN (_MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC)

/* Push one symbol, given by its range, onto each of sixteen states; refills are written downwards from *end. */
VECTOR_TARGET static inline __m512i rans_push(__m512i x, __m512i range, uint16_t **end)
{
    const __m512i one = _mm512_set1_epi32(1), low16 = _mm512_set1_epi32(0xFFFF), scale = _mm512_set1_epi32(SCALE);
    __m512i less = _mm512_and_si512(range, _mm512_set1_epi32(SCALE - 1)), f = _mm512_add_epi32(less, one);
    __mmask16 full = _mm512_cmpgt_epu32_mask(_mm512_srli_epi32(x, 32 - SCALE_BITS), less);
    __m256i refills = _mm512_cvtepi32_epi16(_mm512_maskz_compress_epi32(full, x));
    __asm__("" : "+v"(refills)); /* else compilers narrow and store at once, which takes several times as long */
    int count = __builtin_popcount(full);
    *end -= count;
    _mm256_mask_storeu_epi16(*end, (__mmask16)((1u << count) - 1), refills);
    x = _mm512_mask_srli_epi32(x, full, x, REFILL_BITS);
    /* x / f in float, by the reciprocal of f, everything rounded towards zero: the error is less than 2^-21 of a
     * quotient below 2^21, so that what is left when the point is cut off is right or one too small. */
    __m512 divisor = _mm512_cvtepu32_ps(f), reciprocal = _mm512_rcp14_ps(divisor);
    __m512 correction = _mm512_fnmadd_round_ps(divisor, reciprocal, _mm512_set1_ps(2), ROUND_DOWN);
    reciprocal = _mm512_mul_round_ps(reciprocal, correction, ROUND_DOWN);
    __m512 quotient = _mm512_mul_round_ps(_mm512_cvt_roundepu32_ps(x, ROUND_DOWN), reciprocal, ROUND_DOWN);
    __m512i q = _mm512_cvttps_epu32(quotient);
    /* what is left is less than 4096, so 16 bits of the product tell, and take half as long */
    __m512i r = _mm512_and_si512(_mm512_sub_epi32(x, _mm512_mullo_epi16(q, f)), low16);
    __mmask16 under = _mm512_cmpge_epu32_mask(r, f);
    x = _mm512_add_epi32(_mm512_slli_epi32(q, SCALE_BITS), _mm512_add_epi32(r, _mm512_srli_epi32(range, SCALE_BITS)));
    return _mm512_mask_add_epi32(x, under, x, _mm512_sub_epi32(scale, f));
}

/* Sixteen words at a time, from the last to the first; n is a multiple of 16, lanes too. */
VECTOR_TARGET static uint16_t *rans_encode_vectors(const uint8_t *symbols, const uint8_t *contexts, size_t n,
                                                   const uint32_t *ranges, uint32_t *states, size_t lanes,
                                                   uint16_t *end)
{
    for (size_t i = n; i > 0;) {
        i -= 16;
        uint32_t *state = states + (i & (lanes - 1));
        __m512i symbol = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(symbols + i)));
        __m512i context = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(contexts + i)));
        __m512i place = _mm512_or_si512(_mm512_slli_epi32(context, 8), symbol);
        __m512i range = _mm512_i32gather_epi32(place, ranges, 4);
        _mm512_storeu_si512(state, rans_push(_mm512_loadu_si512(state), range, &end));
    }
    return end;
}

/* Words first .. last - 1, both multiples of 16, all of one context. Its ranges of 64 symbols from `lowest` <= 192 on fit
 * four registers; only where another one occurs are they gathered from memory. */
VECTOR_TARGET static uint16_t *rans_encode_alike(const uint8_t *symbols, size_t first, size_t last,
                                                 const uint32_t *ranges, uint32_t lowest, uint32_t *states,
                                                 size_t lanes, uint16_t *end)
{
    const __m512i half = _mm512_set1_epi32(32), most = _mm512_set1_epi32(63), base = _mm512_set1_epi32((int)lowest);
    const __m512i a = _mm512_loadu_si512(ranges + lowest), b = _mm512_loadu_si512(ranges + lowest + 16);
    const __m512i c = _mm512_loadu_si512(ranges + lowest + 32), d = _mm512_loadu_si512(ranges + lowest + 48);
    for (size_t i = last; i > first;) {
        i -= 16;
        uint32_t *state = states + (i & (lanes - 1));
        __m512i symbol = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(symbols + i)));
        __m512i place = _mm512_sub_epi32(symbol, base);
        __m512i low = _mm512_permutex2var_epi32(a, place, b), high = _mm512_permutex2var_epi32(c, place, d);
        __m512i range = _mm512_mask_mov_epi32(low, _mm512_test_epi32_mask(place, half), high);
        if (_mm512_cmpgt_epu32_mask(place, most))
            range = _mm512_i32gather_epi32(symbol, ranges, 4);
        _mm512_storeu_si512(state, rans_push(_mm512_loadu_si512(state), range, &end));
    }
    return end;
}
#endif

/* Encode n words. `end` has room for one refill each before it, and one more. */
static uint16_t *rans_encode(const uint8_t *symbols, const uint8_t *contexts, size_t n, const uint32_t *ranges,
                             uint32_t *states, size_t lanes, uint16_t *end)
{
#ifdef VECTOR_LANES
    if (lanes % 16 == 0 && vectors_help()) {
        end = rans_encode_some(symbols, contexts, n & ~(size_t)15, n, ranges, states, lanes, end);
        return rans_encode_vectors(symbols, contexts, n & ~(size_t)15, ranges, states, lanes, end);
    }
#endif
    return rans_encode_some(symbols, contexts, 0, n, ranges, states, lanes, end);
}

/* One entry of the decoder's table for each context and x mod SCALE: symbol << 22 | (frequency - 1) << 11 | (y - start). */
static CLONES void rans_slots(const uint16_t *frequencies, size_t contexts, int symbol_bits, uint32_t *slots)
{
    for (size_t c = 0; c < contexts; c++)
        for (size_t s = 0; s >> symbol_bits == 0; s++) {
            uint32_t frequency = frequencies[c << symbol_bits | s];
            uint32_t entry = (uint32_t)s << 22 | (frequency - 1) << SCALE_BITS;
            for (uint32_t k = 0; k < frequency; k++)
                *slots++ = entry + k;
        }
}

static inline uint32_t rans_advance(uint32_t x, uint32_t slot)
{
    return (((slot >> SCALE_BITS) & (SCALE - 1)) + 1) * (x >> SCALE_BITS) + (slot & (SCALE - 1));
}

/* Decode at most one word for each of `lanes` states; NULL if refills run out. */
static const uint16_t *rans_decode_some(const uint8_t *contexts, uint8_t *symbols, size_t n, const uint32_t *slots,
                                        uint32_t *states, const uint16_t *next, const uint16_t *end)
{
    for (size_t j = 0; j < n; j++) {
        uint32_t slot = slots[(size_t)contexts[j] << SCALE_BITS | (states[j] & (SCALE - 1))];
        uint32_t x = rans_advance(states[j], slot);
        if (x < LOWEST) {
            if (next == end)
                return NULL;
            x = x << REFILL_BITS | *next++;
        }
        symbols[j] = (uint8_t)(slot >> 22);
        states[j] = x;
    }
    return next;
}

/* The same for all lanes at once, when at least `lanes` refills are left. */
static inline const uint16_t *rans_decode_lanes(const uint8_t *contexts, uint8_t *symbols, size_t lanes,
                                                const uint32_t *slots, uint32_t *states, const uint16_t *next)
{
    for (size_t j = 0; j < lanes; j++) {
        uint32_t slot = slots[(size_t)contexts[j] << SCALE_BITS | (states[j] & (SCALE - 1))];
        uint32_t x = rans_advance(states[j], slot);
        uint32_t empty = x < LOWEST;
        symbols[j] = (uint8_t)(slot >> 22);
        states[j] = empty ? x << REFILL_BITS | *next : x;
        next += empty;
    }
    return next;
}

#ifdef VECTOR_LANES
/* Sixteen lanes at a time. */
VECTOR_TARGET static const uint16_t *
rans_decode_vectors(const uint8_t *contexts, uint8_t *symbols, size_t lanes, const uint32_t *slots, uint32_t *states,
                    const uint16_t *next)
{
    const __m512i low = _mm512_set1_epi32(SCALE - 1), one = _mm512_set1_epi32(1), lowest = _mm512_set1_epi32(LOWEST);
    for (size_t j = 0; j < lanes; j += 16) {
        __m512i x = _mm512_loadu_si512(states + j);
        __m512i context = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(contexts + j)));
        __m512i place = _mm512_or_si512(_mm512_slli_epi32(context, SCALE_BITS), _mm512_and_si512(x, low));
        __m512i slot = _mm512_i32gather_epi32(place, slots, 4);
        __m512i frequency = _mm512_add_epi32(_mm512_and_si512(_mm512_srli_epi32(slot, SCALE_BITS), low), one);
        x = _mm512_add_epi32(_mm512_mullo_epi32(frequency, _mm512_srli_epi32(x, SCALE_BITS)),
                             _mm512_and_si512(slot, low));
        __mmask16 empty = _mm512_cmplt_epu32_mask(x, lowest);
        __m512i refills = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)next));
        refills = _mm512_maskz_expand_epi32(empty, refills);
        x = _mm512_mask_or_epi32(x, empty, _mm512_slli_epi32(x, REFILL_BITS), refills);
        next += __builtin_popcount(empty);
        _mm512_storeu_si512(states + j, x);
        _mm_storeu_si128((__m128i *)(symbols + j), _mm512_cvtepi32_epi8(_mm512_srli_epi32(slot, 22)));
    }
    return next;
}
#endif

/* Decode n words that begin with lane 0; returns the refills left, or NULL if they run out. */
static const uint16_t *rans_decode(const uint8_t *contexts, uint8_t *symbols, size_t n, const uint32_t *slots,
                                   uint32_t *states, size_t lanes, const uint16_t *next, const uint16_t *end)
{
#ifdef VECTOR_LANES
    const int vectors = lanes % 16 == 0 && vectors_help();
#endif
    size_t i = 0;
    for (; i + lanes <= n && (size_t)(end - next) >= lanes + 16; i += lanes) { /* a vector loads 16 refills */
#ifdef VECTOR_LANES
        if (vectors) {
            next = rans_decode_vectors(contexts + i, symbols + i, lanes, slots, states, next);
            continue;
        }
#endif
        next = rans_decode_lanes(contexts + i, symbols + i, lanes, slots, states, next);
    }
    for (; i < n && next != NULL; i += lanes) {
        size_t m = n - i < lanes ? n - i : lanes;
        next = rans_decode_some(contexts + i, symbols + i, m, slots, states, next, end);
    }
    return next;
}

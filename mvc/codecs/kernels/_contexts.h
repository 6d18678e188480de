/* The context of each word, looked up by its key (spec-v1, section 6.5, step 3); included once by _native.c. */

#define NEAR_KEYS 256 /* that fit four vector registers, a byte each */

/* The contexts of all keys. Only keys from `from` to `from + most` differ in theirs if `near` is used: the first of them
 * has the context of all below, the last that of all above. */
typedef struct {
    const uint8_t *of;
    uint8_t near[NEAR_KEYS];
    uint16_t from, most;
    int use_near;
} contexts_t;

#ifdef VECTOR_LANES
static int bytes_permute(void)
{
    return vectors_help() && __builtin_cpu_supports("avx512vbmi");
}

/* The contexts of the first n - n % 64 words. */
__attribute__((target("avx512f,avx512bw,avx512vl,avx512vbmi"))) static size_t
map_near(const contexts_t *contexts, const uint16_t *restrict keys, uint8_t *restrict found, size_t n)
{
    const __m512i a = _mm512_loadu_si512(contexts->near), b = _mm512_loadu_si512(contexts->near + 64);
    const __m512i c = _mm512_loadu_si512(contexts->near + 128), d = _mm512_loadu_si512(contexts->near + 192);
    const __m512i from = _mm512_set1_epi16((int16_t)contexts->from), most = _mm512_set1_epi16((int16_t)contexts->most);
    size_t i = 0;
    for (; i + 64 <= n; i += 64) {
        const __m512i low = _mm512_subs_epu16(_mm512_loadu_si512(keys + i), from);
        const __m512i high = _mm512_subs_epu16(_mm512_loadu_si512(keys + i + 32), from);
        const __m256i left = _mm512_cvtepi16_epi8(_mm512_min_epu16(low, most));
        const __m256i right = _mm512_cvtepi16_epi8(_mm512_min_epu16(high, most));
        const __m512i place = _mm512_inserti64x4(_mm512_castsi256_si512(left), right, 1);
        const __m512i lower = _mm512_permutex2var_epi8(a, place, b), upper = _mm512_permutex2var_epi8(c, place, d);
        _mm512_storeu_si512(found + i, _mm512_mask_mov_epi8(lower, _mm512_movepi8_mask(place), upper));
    }
    return i;
}
#endif

/* Look at the contexts `of` the keys below `count`, 1 to 2^16. */
static void contexts_start(contexts_t *contexts, const uint8_t *of, size_t count)
{
    size_t from = 0, last = count - 1;
    while (from < last && of[from + 1] == of[0])
        from++;
    while (last > from && of[last - 1] == of[count - 1])
        last--;
    contexts->of = of;
    contexts->use_near = 0;
#ifdef VECTOR_LANES
    contexts->use_near = last - from < NEAR_KEYS && bytes_permute();
#endif
    if (contexts->use_near) {
        contexts->from = (uint16_t)from;
        contexts->most = (uint16_t)(last - from);
        memset(contexts->near, 0, NEAR_KEYS);
        memcpy(contexts->near, of + from, last - from + 1);
    }
}

static void map_keys(const contexts_t *contexts, const uint16_t *restrict keys, uint8_t *restrict found, size_t n)
{
    const uint8_t *const of = contexts->of;
    size_t i = 0;
#ifdef VECTOR_LANES
    if (contexts->use_near)
        i = map_near(contexts, keys, found, n);
#endif
    for (; i + 4 <= n; i += 4) { /* one load and one store for four words */
        uint64_t four;
        memcpy(&four, keys + i, 8);
        uint32_t each = of[four & 0xFFFF] | (uint32_t)of[four >> 16 & 0xFFFF] << 8 |
                        (uint32_t)of[four >> 32 & 0xFFFF] << 16 | (uint32_t)of[four >> 48] << 24;
        memcpy(found + i, &each, 4);
    }
    for (; i < n; i++)
        found[i] = of[keys[i]];
}

/* The loops of sparse deltas for words of BITS bits; included by _native.c once for each of 8, 16, 32 and 64, behind
 * _words.h, whose functions they use. Callers have checked every length.
 */

#define PASTE2(a, b) a##b
#define PASTE(a, b) PASTE2(a, b)
#define FN(name) PASTE(name, BITS)
#define W PASTE(PASTE(uint, BITS), _t)
#define WORD_BYTES (BITS / 8)

/* Blocks of equal bytes are passed over by memcmp, equal chunks of 8 bytes by one test. Returns the number of changed
 * words, or SIZE_MAX if there are more than `most`. */
static size_t FN(changes_)(const uint8_t *target, const uint8_t *base, size_t n, int is_float, uint32_t *positions,
                           uint8_t *deltas, size_t most)
{
    const size_t nbytes = n * WORD_BYTES;
    size_t k = 0;
    for (size_t at = 0; at < nbytes; at += BLOCK) {
        const size_t end = nbytes - at < BLOCK ? nbytes : at + BLOCK;
        if (memcmp(target + at, base + at, end - at) == 0)
            continue;
        for (size_t chunk = at; chunk < end; chunk += 8) {
            uint64_t x = difference(target + chunk, base + chunk, end - chunk);
            while (x) {
                const int lane = __builtin_ctzll(x) / BITS;
                const size_t i = chunk / WORD_BYTES + (size_t)lane;
                if (k == most)
                    return SIZE_MAX;
                positions[k] = (uint32_t)i;
                FN(store_)(deltas, k, (W)(FN(forward_)(FN(load_)(target, i), FN(load_)(base, i), is_float) - 1));
                k++;
                x &= ~((uint64_t)(W)~(W)0 << (lane * BITS));
            }
        }
    }
    return k;
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

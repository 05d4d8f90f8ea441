/* What the kernels share: bfloat16 in and out of vectors of sixteen floats, and e^x of them. */
#ifndef MULTIGRAFT_COMMON_H
#define MULTIGRAFT_COMMON_H

#include <immintrin.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>

typedef uint16_t bf16;

static inline __m512 load_bf16(const bf16 *from)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)from)), 16));
}

static inline __m512 load_bf16_masked(const bf16 *from, __mmask16 mask)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, from)), 16));
}

static inline void store_bf16(bf16 *to, __m512 values)
{
    _mm256_storeu_si256((__m256i *)to, (__m256i)_mm512_cvtneps_pbh(values));
}

static inline void store_bf16_masked(bf16 *to, __m512 values, __mmask16 mask)
{
    _mm256_mask_storeu_epi16(to, mask, (__m256i)_mm512_cvtneps_pbh(values));
}

/* The values as they are after being kept in bfloat16. */
static inline __m512 round_bf16(__m512 values)
{
    __m256i rounded = (__m256i)_mm512_cvtneps_pbh(values);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(rounded), 16));
}

static inline float float_of(bf16 value)
{
    union { uint32_t bits; float number; } both = { (uint32_t)value << 16 };
    return both.number;
}

static inline bf16 bf16_of(float number)
{
    return (bf16)_mm_extract_epi16((__m128i)_mm_cvtneps_pbh(_mm_set_ss(number)), 0);
}

static inline __mmask16 first(ptrdiff_t count)
{
    return count >= 16 ? (__mmask16)0xffff : (__mmask16)((1u << count) - 1);
}

/* e^x, by Cephes' polynomial on [-ln 2 / 2, ln 2 / 2]; relative error below 2e-7; 0 below -87.3,
   infinite above 88.7. */
static inline __m512 exponential(__m512 all)
{
    __mmask16 some = _mm512_cmp_ps_mask(all, _mm512_set1_ps(-87.3f), _CMP_GE_OQ);
    __m512 x = _mm512_min_ps(all, _mm512_set1_ps(88.7f));
    __m512 whole = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504089f)), 0);
    __m512 rest = _mm512_fnmadd_ps(whole, _mm512_set1_ps(0.693359375f), x);
    rest = _mm512_fnmadd_ps(whole, _mm512_set1_ps(-2.12194440e-4f), rest);
    __m512 sum = _mm512_set1_ps(1.9875691500e-4f);
    sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(1.3981999507e-3f));
    sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(8.3334519073e-3f));
    sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(4.1665795894e-2f));
    sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(1.6666665459e-1f));
    sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(5.0000001201e-1f));
    sum = _mm512_fmadd_ps(_mm512_mul_ps(rest, rest), sum, _mm512_add_ps(rest, _mm512_set1_ps(1.0f)));
    __mmask16 beyond = _mm512_cmp_ps_mask(all, _mm512_set1_ps(88.7f), _CMP_GT_OQ);
    return _mm512_mask_mov_ps(_mm512_maskz_scalef_ps(some, sum, whole), beyond, _mm512_set1_ps(INFINITY));
}

/* How this thread's tiles are set up, to be set up so again afterwards: other libraries rely on what they did. */
typedef struct {
    char bytes[64];
} Tiles;

static inline Tiles tiles_as_they_are(void)
{
    Tiles kept;
    _tile_storeconfig(&kept);
    return kept;
}

static inline void set_back(const Tiles *kept)
{
    if (kept->bytes[0])
        _tile_loadconfig(kept);
    else
        _tile_release();
}

#endif

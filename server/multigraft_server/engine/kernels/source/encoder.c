/* What happens to many tokens one by one between an encoder's products: activations, layer norms, scales by slot. */
#include "gelu.h"
#include "pointwise.h"

#include <math.h>

/* x = gelu(x), count numbers. */
void gelu(bf16 *x, ptrdiff_t count, int threads)
{
    #pragma omp parallel for num_threads(threads) if (threads > 1)
    for (ptrdiff_t i = 0; i < count / 32; i++) {
        __m512i both = _mm512_loadu_si512(x + 32 * i);
        __m512 even = gelu_of(_mm512_castsi512_ps(_mm512_slli_epi32(both, 16)));
        __m512 odd = gelu_of(_mm512_castsi512_ps(_mm512_and_si512(both, _mm512_set1_epi32((int)0xffff0000))));
        __m512i low = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(even));
        __m512i high = _mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(odd)), 16);
        _mm512_storeu_si512(x + 32 * i, _mm512_or_si512(low, high));
    }
    for (ptrdiff_t i = count / 32 * 32; i < count; i += 16) {
        __mmask16 mask = first(count - i);
        store_bf16_masked(x + i, gelu_of(load_bf16_masked(x + i, mask)), mask);
    }
}

/* One token's layer norm; the sums are kept in `y` until they are normed. `whole`: size is a multiple of 16. */
static inline __attribute__((always_inline)) void norm_token(const bf16 *x, const bf16 *residual, const bf16 *weight,
    const bf16 *bias, bf16 *y, ptrdiff_t size, float epsilon, const int whole)
{
    __m512 sum = _mm512_setzero_ps(), squares = sum;
    for (ptrdiff_t i = 0; i < size; i += 16) {
        __mmask16 mask = whole ? 0xffff : first(size - i);
        __m512 own = load_bf16_masked(x + i, mask);
        if (residual != NULL)
            own = round_bf16(_mm512_add_ps(own, load_bf16_masked(residual + i, mask)));
        sum = _mm512_add_ps(sum, own);
        store_bf16_masked(y + i, own, mask);
    }
    __m512 mean = _mm512_set1_ps(_mm512_reduce_add_ps(sum) / (float)size);
    for (ptrdiff_t i = 0; i < size; i += 16) {
        __mmask16 mask = whole ? 0xffff : first(size - i);
        __m512 away = _mm512_maskz_sub_ps(mask, load_bf16_masked(y + i, mask), mean);
        squares = _mm512_fmadd_ps(away, away, squares);
    }
    __m512 scale = _mm512_set1_ps(1.0f / sqrtf(_mm512_reduce_add_ps(squares) / (float)size + epsilon));
    for (ptrdiff_t i = 0; i < size; i += 16) {
        __mmask16 mask = whole ? 0xffff : first(size - i);
        __m512 normed = _mm512_mul_ps(_mm512_sub_ps(load_bf16_masked(y + i, mask), mean), scale);
        __m512 shift = bias == NULL ? _mm512_setzero_ps() : load_bf16_masked(bias + i, mask);
        store_bf16_masked(y + i, _mm512_fmadd_ps(normed, load_bf16_masked(weight + i, mask), shift), mask);
    }
}

/* y = (u - mean(u)) / sqrt(variance(u) + epsilon) weight + bias with u = x + residual, all (tokens, size); `residual` and
   `bias` may be null. */
void layer_norm(const bf16 *x, const bf16 *residual, const bf16 *weight, const bf16 *bias, bf16 *y, ptrdiff_t tokens,
    ptrdiff_t size, float epsilon, int threads)
{
    #pragma omp parallel for num_threads(threads) if (threads > 1)
    for (ptrdiff_t token = 0; token < tokens; token++) {
        const bf16 *from = x + token * size, *other = residual == NULL ? NULL : residual + token * size;
        if (size % 16 == 0)
            norm_token(from, other, weight, bias, y + token * size, size, epsilon, 1);
        else
            norm_token(from, other, weight, bias, y + token * size, size, epsilon, 0);
    }
}

/* values = values scale + shift, (tokens, size), by the groups' rows of `scale` and `shift` (rows, size), of which the second
   may be null; the product is kept in bfloat16 before it is shifted. `stride` is in numbers. */
void scale_groups(bf16 *values, ptrdiff_t stride, const float *scale, const float *shift, ptrdiff_t size, const Rows *groups,
    ptrdiff_t count, int threads)
{
    #pragma omp parallel num_threads(threads) if (threads > 1)
    for (ptrdiff_t g = 0; g < count; g++) {
        const float *own = scale + groups[g].row * size, *added = shift == NULL ? NULL : shift + groups[g].row * size;
        #pragma omp for nowait
        for (ptrdiff_t token = groups[g].start; token < groups[g].stop; token++)
            scaled(values + token * stride, own, added, size);
    }
}

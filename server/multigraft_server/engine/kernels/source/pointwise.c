/* What happens to tokens one by one between the products: norms and gates. */
#include "pointwise.h"

enum { TOKENS_FOR_THREADS = 64 };

void norm(const bf16 *x, const bf16 *weight, bf16 *y, ptrdiff_t size, float epsilon)
{
    __m512 squares = _mm512_setzero_ps();
    for (ptrdiff_t i = 0; i < size; i += 16) {
        __m512 values = load_bf16_masked(x + i, first(size - i));
        squares = _mm512_fmadd_ps(values, values, squares);
    }
    __m512 scale = _mm512_set1_ps(1.0f / sqrtf(_mm512_reduce_add_ps(squares) / (float)size + epsilon));
    for (ptrdiff_t i = 0; i < size; i += 16) {
        __mmask16 mask = first(size - i);
        __m512 normed = round_bf16(_mm512_mul_ps(load_bf16_masked(x + i, mask), scale));
        store_bf16_masked(y + i, _mm512_mul_ps(normed, load_bf16_masked(weight + i, mask)), mask);
    }
}

/* y = weight * x / rms(x) of each token. */
void rms_norm(const bf16 *x, const bf16 *weight, bf16 *y, ptrdiff_t tokens, ptrdiff_t size, float epsilon, int threads)
{
    #pragma omp parallel for num_threads(threads) if (threads > 1 && tokens >= TOKENS_FOR_THREADS)
    for (ptrdiff_t token = 0; token < tokens; token++)
        norm(x + token * size, weight, y + token * size, size, epsilon);
}

void gated(const bf16 *gate, const bf16 *up, bf16 *y, ptrdiff_t size)
{
    for (ptrdiff_t i = 0; i < size; i += 16) {
        __mmask16 mask = first(size - i);
        __m512 x = load_bf16_masked(gate + i, mask);
        __m512 below = _mm512_add_ps(_mm512_set1_ps(1.0f), exponential(_mm512_sub_ps(_mm512_setzero_ps(), x)));
        __m512 silu = round_bf16(_mm512_div_ps(x, below));
        store_bf16_masked(y + i, _mm512_mul_ps(silu, load_bf16_masked(up + i, mask)), mask);
    }
}

void add(bf16 *y, const bf16 *x, ptrdiff_t size)
{
    for (ptrdiff_t i = 0; i < size; i += 16) {
        __mmask16 mask = first(size - i);
        store_bf16_masked(y + i, _mm512_add_ps(load_bf16_masked(y + i, mask), load_bf16_masked(x + i, mask)), mask);
    }
}

/* `whole`: size is a multiple of 16. */
static inline __attribute__((always_inline)) void scale_token(bf16 *values, const float *scale, const float *shift,
    ptrdiff_t size, const int whole)
{
    for (ptrdiff_t i = 0; i < size; i += 16) {
        __mmask16 mask = whole ? 0xffff : first(size - i);
        __m512 product = _mm512_mul_ps(load_bf16_masked(values + i, mask), _mm512_maskz_loadu_ps(mask, scale + i));
        if (shift != NULL)
            product = _mm512_add_ps(round_bf16(product), _mm512_maskz_loadu_ps(mask, shift + i));
        store_bf16_masked(values + i, product, mask);
    }
}

void scaled(bf16 *values, const float *scale, const float *shift, ptrdiff_t size)
{
    if (size % 16 == 0)
        scale_token(values, scale, shift, size, 1);
    else
        scale_token(values, scale, shift, size, 0);
}

/* y = silu(gate) * up of each token; strides are in numbers. */
void silu_gate(const bf16 *gate, ptrdiff_t gate_stride, const bf16 *up, ptrdiff_t up_stride, bf16 *y,
    ptrdiff_t tokens, ptrdiff_t size, int threads)
{
    #pragma omp parallel for num_threads(threads) if (threads > 1 && tokens >= TOKENS_FOR_THREADS)
    for (ptrdiff_t token = 0; token < tokens; token++)
        gated(gate + token * gate_stride, up + token * up_stride, y + token * size, size);
}

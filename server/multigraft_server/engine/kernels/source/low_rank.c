/* Low-rank products of few tokens, each token with its own adapter's columns: y += (x A^T) B.

   The banks are read once, as they lie: `a` (columns, in), `b` (columns, out). What lies between the two products
   is kept in bfloat16, as it is where the products are computed by torch. */
#include "low_rank.h"

enum { MOST_ROWS = 4, MOST_COLUMNS = 64, WIDE = 4 };

static inline __attribute__((always_inline)) void dots(const bf16 *x, ptrdiff_t x_stride, const bf16 *a, ptrdiff_t in,
    float *hidden, ptrdiff_t stride, const int rows, const int columns)
{
    __m512 sums[rows][columns];
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < columns; c++)
            sums[r][c] = _mm512_setzero_ps();
    for (ptrdiff_t i = 0; i < in; i += 32) {
        __mmask32 mask = in - i >= 32 ? 0xffffffffu : (1u << (in - i)) - 1;
        __m512i inputs[rows];
        for (int r = 0; r < rows; r++)
            inputs[r] = _mm512_maskz_loadu_epi16(mask, x + r * x_stride + i);
        for (int c = 0; c < columns; c++) {
            __m512i weights = _mm512_maskz_loadu_epi16(mask, a + c * in + i);
            for (int r = 0; r < rows; r++)
                sums[r][c] = _mm512_dpbf16_ps(sums[r][c], (__m512bh)inputs[r], (__m512bh)weights);
        }
    }
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < columns; c++)
            hidden[r * stride + c] = float_of(bf16_of(_mm512_reduce_add_ps(sums[r][c])));
}

static inline __attribute__((always_inline)) void first_of(const bf16 *x, ptrdiff_t x_stride, const bf16 *a,
    ptrdiff_t in, float *hidden, ptrdiff_t stride, const int rows, ptrdiff_t columns)
{
    ptrdiff_t c = 0;
    for (; c + 4 <= columns; c += 4)
        dots(x, x_stride, a + c * in, in, hidden + c, stride, rows, 4);
    for (; c < columns; c++)
        dots(x, x_stride, a + c * in, in, hidden + c, stride, rows, 1);
}

static inline __attribute__((always_inline)) void second_of(bf16 *y, ptrdiff_t y_stride, const float *hidden,
    ptrdiff_t stride, const bf16 *b, ptrdiff_t out, const int rows, ptrdiff_t columns)
{
    ptrdiff_t o = 0;
    for (; o + 16 * WIDE <= out; o += 16 * WIDE) {
        __m512 sums[rows][WIDE];
        for (int r = 0; r < rows; r++)
            for (int w = 0; w < WIDE; w++)
                sums[r][w] = load_bf16(y + r * y_stride + o + 16 * w);
        for (ptrdiff_t c = 0; c < columns; c++)
            for (int w = 0; w < WIDE; w++) {
                __m512 weights = load_bf16(b + c * out + o + 16 * w);
                for (int r = 0; r < rows; r++)
                    sums[r][w] = _mm512_fmadd_ps(_mm512_set1_ps(hidden[r * stride + c]), weights, sums[r][w]);
            }
        for (int r = 0; r < rows; r++)
            for (int w = 0; w < WIDE; w++)
                store_bf16(y + r * y_stride + o + 16 * w, sums[r][w]);
    }
    for (; o < out; o += 16) {
        __mmask16 mask = first(out - o);
        for (int r = 0; r < rows; r++) {
            __m512 sum = load_bf16_masked(y + r * y_stride + o, mask);
            for (ptrdiff_t c = 0; c < columns; c++)
                sum = _mm512_fmadd_ps(_mm512_set1_ps(hidden[r * stride + c]),
                    load_bf16_masked(b + c * out + o, mask), sum);
            store_bf16_masked(y + r * y_stride + o, sum, mask);
        }
    }
}

void first_product(const bf16 *x, ptrdiff_t x_stride, const bf16 *a, ptrdiff_t in, float *hidden, ptrdiff_t stride,
    ptrdiff_t rows, ptrdiff_t columns)
{
    for (ptrdiff_t r = 0; r < rows; ) {
        const bf16 *own = x + r * x_stride;
        float *kept = hidden + r * stride;
        if (rows - r >= 4) {
            first_of(own, x_stride, a, in, kept, stride, 4, columns);
            r += 4;
        } else if (rows - r >= 2) {
            first_of(own, x_stride, a, in, kept, stride, 2, columns);
            r += 2;
        } else {
            first_of(own, x_stride, a, in, kept, stride, 1, columns);
            r += 1;
        }
    }
}

void second_product(bf16 *y, ptrdiff_t y_stride, const float *hidden, ptrdiff_t stride, const bf16 *b, ptrdiff_t out,
    ptrdiff_t rows, ptrdiff_t columns)
{
    for (ptrdiff_t r = 0; r < rows; ) {
        bf16 *own = y + r * y_stride;
        const float *kept = hidden + r * stride;
        if (rows - r >= 4) {
            second_of(own, y_stride, kept, stride, b, out, 4, columns);
            r += 4;
        } else if (rows - r >= 2) {
            second_of(own, y_stride, kept, stride, b, out, 2, columns);
            r += 2;
        } else {
            second_of(own, y_stride, kept, stride, b, out, 1, columns);
            r += 1;
        }
    }
}

void fetch(const bf16 *from, ptrdiff_t count)
{
    for (ptrdiff_t i = 0; i < count; i += 32)
        _mm_prefetch((const char *)(from + i), _MM_HINT_T1);
}

static void group_of(const Group *group, bf16 *y, ptrdiff_t y_stride, const bf16 *x, ptrdiff_t x_stride,
    const bf16 *a, const bf16 *b, ptrdiff_t in, ptrdiff_t out)
{
    float hidden[MOST_ROWS * MOST_COLUMNS];
    for (ptrdiff_t c = group->first; c < group->last; c += MOST_COLUMNS) {
        ptrdiff_t columns = group->last - c < MOST_COLUMNS ? group->last - c : MOST_COLUMNS;
        fetch(b + c * out, columns * out);
        for (ptrdiff_t t = group->start; t < group->stop; t += MOST_ROWS) {
            ptrdiff_t rows = group->stop - t < MOST_ROWS ? group->stop - t : MOST_ROWS;
            first_product(x + t * x_stride, x_stride, a + c * in, in, hidden, MOST_COLUMNS, rows, columns);
            second_product(y + t * y_stride, y_stride, hidden, MOST_COLUMNS, b + c * out, out, rows, columns);
        }
    }
}

/* Adds to y (tokens, out) each group's own product of x (tokens, in); strides are in numbers. */
void low_rank(bf16 *y, ptrdiff_t y_stride, const bf16 *x, ptrdiff_t x_stride, const bf16 *a, const bf16 *b,
    ptrdiff_t in, ptrdiff_t out, const Group *groups, ptrdiff_t count, int threads)
{
    #pragma omp parallel for schedule(dynamic) num_threads(threads) if (threads > 1)
    for (ptrdiff_t g = 0; g < count; g++)
        group_of(groups + g, y, y_stride, x, x_stride, a, b, in, out);
}

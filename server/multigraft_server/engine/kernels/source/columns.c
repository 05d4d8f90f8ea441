/* Products with the columns of adapters, which lie as the banks keep them: A (columns, in), B (columns, out).

   Few tokens read them once, as they lie; more of one adapter bring them into the order of tiles first. What lies
   between the two products is kept in bfloat16, as it is where torch computes them. */
#include "columns.h"
#include "activations.h"
#include "tiles.h"

#include <string.h>

/* SOME: rows from where on tiles are quicker (measured at 384 to 1536 features). */
enum { WIDE = 4, SOME = 8, MOST_DEPTH = 1536, SLICE = 256, MOST_COLUMNS = 512 };

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
            hidden[r * stride + c] = _mm512_reduce_add_ps(sums[r][c]);
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

/* Up to 32 columns of A over `length` inputs as pairs of inputs: packed[column / 16][length / 2][16][2]; beyond the last
   they are zero. */
static void pack_first(bf16 *packed, const bf16 *a, ptrdiff_t in, ptrdiff_t columns, ptrdiff_t length)
{
    for (ptrdiff_t column = 0; column < columns; column += LANES)
        for (ptrdiff_t i = 0; i < length; i += 2 * LANES) {
            __m512i v[LANES];
            for (int c = 0; c < LANES; c++)
                v[c] = column + c < columns ? _mm512_loadu_si512(a + (column + c) * in + i) : _mm512_setzero_si512();
            turn(v);
            for (int pair = 0; pair < LANES; pair++)
                _mm512_store_si512(packed + column * length + (i + 2 * pair) * LANES, v[pair]);
        }
}

/* Sixteen rows of the first product, up to 32 columns of it; `more`: added to what is there. */
static void block_of_first(float *hidden, ptrdiff_t stride, const bf16 *x, ptrdiff_t x_stride, const bf16 *packed,
    ptrdiff_t columns, ptrdiff_t length, int more)
{
    ptrdiff_t used = (columns + LANES - 1) / LANES * LANES;
    if (more)
        multiply(hidden, stride, x, x_stride, packed, LANES * length, 2 * LANES, used, length, 1);
    else
        multiply(hidden, stride, x, x_stride, packed, LANES * length, 2 * LANES, used, length, 0);
}

/* The same of fewer rows, which are copied, since a tile has sixteen. */
static void rest_of_first(float *hidden, ptrdiff_t stride, const bf16 *x, ptrdiff_t x_stride, const bf16 *packed,
    ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t length, int more)
{
    bf16 own[LANES * MOST_DEPTH] __attribute__((aligned(64)));
    float sums[LANES * 2 * LANES] __attribute__((aligned(64)));
    ptrdiff_t used = (columns + LANES - 1) / LANES * LANES;
    memset(own + rows * length, 0, (LANES - rows) * length * sizeof(bf16));
    for (ptrdiff_t r = 0; r < rows; r++) {
        memcpy(own + r * length, x + r * x_stride, length * sizeof(bf16));
        memcpy(sums + r * 2 * LANES, hidden + r * stride, used * sizeof(float));
    }
    block_of_first(sums, 2 * LANES, own, length, packed, columns, length, more);
    for (ptrdiff_t r = 0; r < rows; r++)
        memcpy(hidden + r * stride, sums + r * 2 * LANES, used * sizeof(float));
}

/* The first product; `in` is a multiple of 32. Beyond the last column, `hidden` gets zeros. */
static void first_by_tiles(const bf16 *x, ptrdiff_t x_stride, const bf16 *a, ptrdiff_t in, float *hidden,
    ptrdiff_t stride, ptrdiff_t rows, ptrdiff_t columns)
{
    bf16 packed[2 * LANES * MOST_DEPTH] __attribute__((aligned(64)));
    Tiles kept = begin_tiles();
    for (ptrdiff_t c = 0; c < columns; c += 2 * LANES)
        for (ptrdiff_t from = 0; from < in; from += MOST_DEPTH) {
            ptrdiff_t length = in - from < MOST_DEPTH ? in - from : MOST_DEPTH;
            ptrdiff_t own = columns - c < 2 * LANES ? columns - c : 2 * LANES;
            pack_first(packed, a + c * in + from, in, own, length);
            for (ptrdiff_t r = 0; r < rows; r += LANES) {
                float *sums = hidden + r * stride + c;
                const bf16 *inputs = x + r * x_stride + from;
                if (rows - r < LANES)
                    rest_of_first(sums, stride, inputs, x_stride, packed, rows - r, own, length, from > 0);
                else
                    block_of_first(sums, stride, inputs, x_stride, packed, own, length, from > 0);
            }
        }
    set_back(&kept);
}

/* The columns that a second product by tiles takes: up to 16, or a multiple of 32. */
static inline ptrdiff_t rounded_up(ptrdiff_t columns)
{
    return columns <= LANES ? LANES : (columns + 2 * LANES - 1) / (2 * LANES) * 2 * LANES;
}

/* Columns of B over `size` outputs side by side by two: packed[column / 2][size][2]; beyond the last they are zero. */
static void pack_second(bf16 *packed, const bf16 *b, ptrdiff_t out, ptrdiff_t columns, ptrdiff_t size)
{
    for (ptrdiff_t column = 0; column < rounded_up(columns); column += 2)
        for (ptrdiff_t o = 0; o < size; o += LANES) {
            __m512i one = _mm512_setzero_si512(), other = one;
            if (column < columns)
                one = wide(b + column * out + o);
            if (column + 1 < columns)
                other = wide(b + (column + 1) * out + o);
            _mm512_store_si512(packed + column * size + 2 * o, _mm512_or_si512(one, _mm512_slli_epi32(other, 16)));
        }
}

/* Up to sixteen rows of `hidden` in bfloat16, (16, rounded_up(columns)); beyond the last row and column zeros. */
static void narrow(bf16 *own, const float *hidden, ptrdiff_t stride, ptrdiff_t rows, ptrdiff_t columns)
{
    ptrdiff_t rounded = rounded_up(columns);
    for (ptrdiff_t t = 0; t < LANES; t++)
        for (ptrdiff_t c = 0; c < rounded; c += LANES) {
            __mmask16 mask = t < rows && columns > c ? first(columns - c) : 0;
            store_bf16(own + t * rounded + c, _mm512_maskz_loadu_ps(mask, hidden + t * stride + c));
        }
}

/* The second product over at most MOST_COLUMNS; `out` is a multiple of 16. */
static void second_by_tiles(bf16 *y, ptrdiff_t y_stride, const float *hidden, ptrdiff_t stride, const bf16 *b,
    ptrdiff_t out, ptrdiff_t rows, ptrdiff_t columns)
{
    bf16 packed[2 * LANES * SLICE] __attribute__((aligned(64))), own[LANES * MOST_COLUMNS] __attribute__((aligned(64)));
    float sums[LANES * SLICE] __attribute__((aligned(64)));
    ptrdiff_t rounded = rounded_up(columns), slice = 2 * LANES * SLICE / rounded / LANES * LANES;
    Tiles kept = begin_tiles();
    slice = slice < SLICE ? slice : SLICE;
    for (ptrdiff_t from = 0; from < out; from += slice) {
        ptrdiff_t size = out - from < slice ? out - from : slice;
        pack_second(packed, b + from, out, columns, size);
        for (ptrdiff_t r = 0; r < rows; r += LANES) {
            ptrdiff_t now = rows - r < LANES ? rows - r : LANES;
            narrow(own, hidden + r * stride, stride, now, columns);
            if (rounded == LANES)
                multiply_short(sums, SLICE, own, rounded, packed, 2 * LANES, 2 * size, size);
            else
                multiply(sums, SLICE, own, rounded, packed, 2 * LANES, 2 * size, size, rounded, 0);
            for (ptrdiff_t t = 0; t < now; t++)
                for (ptrdiff_t o = 0; o < size; o += LANES) {
                    bf16 *to = y + (r + t) * y_stride + from + o;
                    store_bf16(to, _mm512_add_ps(load_bf16(to), _mm512_load_ps(sums + t * SLICE + o)));
                }
        }
    }
    set_back(&kept);
}

/* Sums as they are kept between the products: of a bottleneck activated, its last column 1. */
static void keep(float *hidden, ptrdiff_t stride, ptrdiff_t rows, ptrdiff_t columns, const bf16 *bias, int activation)
{
    for (ptrdiff_t r = 0; r < rows; r++, hidden += stride) {
        for (ptrdiff_t c = 0; c < columns; c += LANES) {
            __mmask16 mask = first(columns - c);
            __m512 sums = _mm512_maskz_loadu_ps(mask, hidden + c);
            if (activation != PLAIN)
                sums = activated(round_bf16(_mm512_add_ps(sums, load_bf16_masked(bias + c, mask))), activation);
            _mm512_mask_storeu_ps(hidden + c, mask, round_bf16(sums));
        }
        if (activation != PLAIN)
            hidden[columns - 1] = 1.0f;
    }
}

void first_product(const bf16 *x, ptrdiff_t x_stride, const bf16 *a, ptrdiff_t in, float *hidden, ptrdiff_t stride,
    ptrdiff_t rows, ptrdiff_t columns, const bf16 *bias, int activation)
{
    int by_tiles = rows >= SOME && in % 32 == 0;
    if (by_tiles)
        first_by_tiles(x, x_stride, a, in, hidden, stride, rows, columns);
    for (ptrdiff_t r = by_tiles ? rows : 0, step; r < rows; r += step) {
        const bf16 *own = x + r * x_stride;
        float *kept = hidden + r * stride;
        step = rows - r >= 4 ? 4 : rows - r >= 2 ? 2 : 1;
        if (step == 4)
            first_of(own, x_stride, a, in, kept, stride, 4, columns);
        else if (step == 2)
            first_of(own, x_stride, a, in, kept, stride, 2, columns);
        else
            first_of(own, x_stride, a, in, kept, stride, 1, columns);
    }
    keep(hidden, stride, rows, columns, bias, activation);
}

void second_product(bf16 *y, ptrdiff_t y_stride, const float *hidden, ptrdiff_t stride, const bf16 *b, ptrdiff_t out,
    ptrdiff_t rows, ptrdiff_t columns)
{
    int by_tiles = rows >= SOME && columns <= MOST_COLUMNS && out % LANES == 0;
    if (by_tiles)
        second_by_tiles(y, y_stride, hidden, stride, b, out, rows, columns);
    for (ptrdiff_t r = by_tiles ? rows : 0, step; r < rows; r += step) {
        bf16 *own = y + r * y_stride;
        const float *kept = hidden + r * stride;
        step = rows - r >= 4 ? 4 : rows - r >= 2 ? 2 : 1;
        if (step == 4)
            second_of(own, y_stride, kept, stride, b, out, 4, columns);
        else if (step == 2)
            second_of(own, y_stride, kept, stride, b, out, 2, columns);
        else
            second_of(own, y_stride, kept, stride, b, out, 1, columns);
    }
}

void fetch(const bf16 *from, ptrdiff_t count)
{
    for (ptrdiff_t i = 0; i < count; i += 32)
        _mm_prefetch((const char *)(from + i), _MM_HINT_T1);
}

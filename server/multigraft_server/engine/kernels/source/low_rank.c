/* Low-rank products, each token with its own adapter's columns: y += (x A^T) B.

   The banks are read as they lie: `a` (columns, in), `b` (columns, out); sixteen tokens and more of one adapter by
   matrix tiles. What lies between the two products is kept in bfloat16, as it is where torch computes them. */
#include "low_rank.h"
#include "activations.h"
#include <omp.h>

enum { MOST_ROWS = 256, MOST_COLUMNS = 64, WIDE = 4, SIDE = 16, MOST_DEPTH = 1536 };

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

/* Tiles: 0 gathers sums of 16 tokens x 16 columns or outputs, 1 holds tokens, 2 holds a bank's part. */
static void configure(ptrdiff_t depth)
{
    struct { uint8_t palette, start, reserved[14]; uint16_t bytes[16]; uint8_t rows[16]; } tiles
        __attribute__((aligned(64))) = { .palette = 1, .bytes = { 64, (uint16_t)(2 * depth), 64 },
            .rows = { SIDE, SIDE, (uint8_t)(depth / 2) } };
    _tile_loadconfig(&tiles);
}

/* Up to 16 columns of A over `length` inputs, turned: rows of input pairs, as a tile product takes its right side. */
static void turn(const bf16 *a, ptrdiff_t in, bf16 *turned, ptrdiff_t length, ptrdiff_t columns)
{
    __mmask16 some = first(columns);
    __m512i lines = _mm512_mullo_epi32(_mm512_set1_epi32((int)(in / 2)),
        _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
    for (ptrdiff_t i = 0; i < length; i += 2)
        _mm512_storeu_si512(turned + i * SIDE,
            _mm512_mask_i32gather_epi32(_mm512_setzero_si512(), some, lines, (const int *)(a + i), 4));
}

/* Whole tiles of the first product: `rows` is a multiple of 16, `in` of 32. Beyond the last column, `hidden` gets zeros. */
static void first_by_tiles(const bf16 *x, ptrdiff_t x_stride, const bf16 *a, ptrdiff_t in, float *hidden,
    ptrdiff_t stride, ptrdiff_t rows, ptrdiff_t columns)
{
    bf16 turned[SIDE * MOST_DEPTH] __attribute__((aligned(64)));
    Tiles kept = tiles_as_they_are();
    configure(32);
    for (ptrdiff_t c = 0; c < columns; c += SIDE)
        for (ptrdiff_t from = 0; from < in; from += MOST_DEPTH) {
            ptrdiff_t length = in - from < MOST_DEPTH ? in - from : MOST_DEPTH;
            turn(a + c * in + from, in, turned, length, columns - c);
            for (ptrdiff_t r = 0; r < rows; r += SIDE) {
                float *sums = hidden + r * stride + c;
                if (from)
                    _tile_loadd(0, sums, stride * 4);
                else
                    _tile_zero(0);
                for (ptrdiff_t i = 0; i < length; i += 32) {
                    _tile_loadd(1, x + r * x_stride + from + i, x_stride * 2);
                    _tile_loadd(2, turned + i * SIDE, 64);
                    _tile_dpbf16ps(0, 1, 2);
                }
                _tile_stored(0, sums, stride * 4);
            }
        }
    set_back(&kept);
}

/* Pairs of columns c, c + 1 of B at 16 outputs, as a tile product takes its right side; beyond `columns` zeros. */
static void pair_up(const bf16 *b, ptrdiff_t out, bf16 *paired, ptrdiff_t columns, ptrdiff_t depth)
{
    for (ptrdiff_t c = 0; c < depth; c += 2) {
        __m256i even = c < columns ? _mm256_loadu_si256((const __m256i *)(b + c * out)) : _mm256_setzero_si256();
        __m256i odd = c + 1 < columns ? _mm256_loadu_si256((const __m256i *)(b + (c + 1) * out)) : _mm256_setzero_si256();
        _mm512_storeu_si512(paired + c * SIDE,
            _mm512_or_si512(_mm512_cvtepu16_epi32(even), _mm512_slli_epi32(_mm512_cvtepu16_epi32(odd), 16)));
    }
}

/* Whole tiles of the second product over at most 32 columns: `rows` and `out` are multiples of 16. */
static void second_by_tiles(bf16 *y, ptrdiff_t y_stride, const float *hidden, ptrdiff_t stride, const bf16 *b,
    ptrdiff_t out, ptrdiff_t rows, ptrdiff_t columns)
{
    bf16 paired[SIDE * 32] __attribute__((aligned(64))), own[SIDE * 32] __attribute__((aligned(64)));
    float sums[SIDE * SIDE] __attribute__((aligned(64)));
    ptrdiff_t depth = (columns + 1) / 2 * 2;
    Tiles kept = tiles_as_they_are();
    configure(depth);
    for (ptrdiff_t r = 0; r < rows; r += SIDE) {
        for (ptrdiff_t t = 0; t < SIDE; t++)
            for (ptrdiff_t c = 0; c < depth; c += 16)
                store_bf16(own + t * 32 + c,
                    _mm512_maskz_loadu_ps(first(columns - c), hidden + (r + t) * stride + c));
        _tile_loadd(1, own, 64);
        for (ptrdiff_t o = 0; o < out; o += SIDE) {
            pair_up(b + o, out, paired, columns, depth);
            _tile_zero(0);
            _tile_loadd(2, paired, 64);
            _tile_dpbf16ps(0, 1, 2);
            _tile_stored(0, sums, 64);
            for (ptrdiff_t t = 0; t < SIDE; t++) {
                bf16 *to = y + (r + t) * y_stride + o;
                store_bf16(to, _mm512_add_ps(load_bf16(to), _mm512_load_ps(sums + t * SIDE)));
            }
        }
    }
    set_back(&kept);
}

/* Sums as they are kept between the products: of a bottleneck activated, its last column 1. */
static void keep(float *hidden, ptrdiff_t stride, ptrdiff_t rows, ptrdiff_t columns, const bf16 *bias, int activation)
{
    for (ptrdiff_t r = 0; r < rows; r++, hidden += stride) {
        for (ptrdiff_t c = 0; c < columns; c += SIDE) {
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
    ptrdiff_t r = 0;
    if (rows >= SIDE && in % 32 == 0) {
        r = rows / SIDE * SIDE;
        first_by_tiles(x, x_stride, a, in, hidden, stride, r, columns);
    }
    for (ptrdiff_t step; r < rows; r += step) {
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
    ptrdiff_t r = 0;
    if (rows >= SIDE && columns <= 32 && out % SIDE == 0) {
        r = rows / SIDE * SIDE;
        second_by_tiles(y, y_stride, hidden, stride, b, out, r, columns);
    }
    for (ptrdiff_t step; r < rows; r += step) {
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

/* The tokens start..stop, all of one group. */
static void part_of(const Group *group, ptrdiff_t start, ptrdiff_t stop, bf16 *y, ptrdiff_t y_stride, const bf16 *x,
    ptrdiff_t x_stride, const bf16 *a, const bf16 *b, ptrdiff_t in, ptrdiff_t out)
{
    float hidden[MOST_ROWS * MOST_COLUMNS];
    for (ptrdiff_t c = group->first; c < group->last; c += MOST_COLUMNS) {
        ptrdiff_t columns = group->last - c < MOST_COLUMNS ? group->last - c : MOST_COLUMNS;
        fetch(b + c * out, columns * out);
        for (ptrdiff_t t = start; t < stop; t += MOST_ROWS) {
            ptrdiff_t rows = stop - t < MOST_ROWS ? stop - t : MOST_ROWS;
            first_product(x + t * x_stride, x_stride, a + c * in, in, hidden, MOST_COLUMNS, rows, columns, NULL, PLAIN);
            second_product(y + t * y_stride, y_stride, hidden, MOST_COLUMNS, b + c * out, out, rows, columns);
        }
    }
}

/* Adds to y (tokens, out) each group's own product of x (tokens, in); strides are in numbers. */
void low_rank(bf16 *y, ptrdiff_t y_stride, const bf16 *x, ptrdiff_t x_stride, const bf16 *a, const bf16 *b,
    ptrdiff_t in, ptrdiff_t out, const Group *groups, ptrdiff_t count, int threads)
{
    #pragma omp parallel num_threads(threads) if (threads > 1)
    {
        ptrdiff_t begin = groups[0].start, all = groups[count - 1].stop - begin;
        ptrdiff_t start = begin + all * omp_get_thread_num() / omp_get_num_threads();
        ptrdiff_t stop = begin + all * (omp_get_thread_num() + 1) / omp_get_num_threads();
        for (const Group *g = groups; g < groups + count; g++) {
            ptrdiff_t own_start = g->start > start ? g->start : start, own_stop = g->stop < stop ? g->stop : stop;
            if (own_start < own_stop)
                part_of(g, own_start, own_stop, y, y_stride, x, x_stride, a, b, in, out);
        }
    }
}

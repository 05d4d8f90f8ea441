/* Products of many tokens with their own adapters' columns, group by group: y += f(x A^T) B.

   f is nothing (LoRA), or adds a bias, is an activation and makes the last column 1 (bottlenecks). What lies between the
   products is kept in bfloat16, as it is where they are computed by torch. A group's columns are brought into the order of
   tiles for at most `CHUNK` tokens at a time. */
#include "activations.h"
#include "tiles.h"

#include <stdlib.h>
#include <string.h>

enum { CHUNK = 128, SLICE = 256 };

/* The tokens start..stop, whose adapter has the columns first..last. */
typedef struct {
    int32_t start, stop, first, last;
} Group;

typedef struct {
    bf16 *y;
    const bf16 *x, *a, *b, *bias;
    ptrdiff_t y_stride, x_stride, in, out;
    int activation;
} Products;

typedef struct {
    bf16 *a, *b, *x, *hidden;
    float *sums;
} Scratch;

/* The columns that the second product takes: up to 16, or a multiple of 32. */
static inline ptrdiff_t rounded_up(ptrdiff_t columns)
{
    return columns <= 16 ? 16 : (columns + 31) / 32 * 32;
}

/* Columns (rows of `a`) as pairs of inputs: packed[column / 16][in / 2][16][2]; beyond the last they are zero. */
static void pack_a(bf16 *packed, const bf16 *a, ptrdiff_t columns, ptrdiff_t in)
{
    for (ptrdiff_t column = 0; column < columns; column += LANES)
        for (ptrdiff_t i = 0; i < in; i += 2 * LANES) {
            __m512i v[LANES];
            for (int c = 0; c < LANES; c++)
                v[c] = column + c < columns ? _mm512_loadu_si512(a + (column + c) * in + i) : _mm512_setzero_si512();
            turn(v);
            for (int pair = 0; pair < LANES; pair++)
                _mm512_store_si512(packed + column * in + (i + 2 * pair) * LANES, v[pair]);
        }
}

/* Columns (rows of `b`) side by side by two: packed[column / 2][out][2]; beyond the last they are zero. */
static void pack_b(bf16 *packed, const bf16 *b, ptrdiff_t columns, ptrdiff_t out)
{
    ptrdiff_t rounded = rounded_up(columns);
    for (ptrdiff_t column = 0; column < rounded; column += 2)
        for (ptrdiff_t o = 0; o < out; o += LANES) {
            __m512i one = _mm512_setzero_si512(), other = one;
            if (column < columns)
                one = wide(b + column * out + o);
            if (column + 1 < columns)
                other = wide(b + (column + 1) * out + o);
            _mm512_store_si512(packed + column * out + 2 * o, _mm512_or_si512(one, _mm512_slli_epi32(other, 16)));
        }
}

/* What a block's sums (16, columns) become between the products; columns beyond the last become zero. */
static void finish_hidden(const Scratch *own, const Products *all, ptrdiff_t first_column, ptrdiff_t columns)
{
    ptrdiff_t rounded = rounded_up(columns);
    for (ptrdiff_t c = 0; c < rounded; c += LANES) {
        __mmask16 mask = columns > c ? first(columns - c) : 0;
        for (ptrdiff_t row = 0; row < LANES; row++) {
            __m512 sum = _mm512_setzero_ps();
            if (mask) {
                sum = _mm512_maskz_loadu_ps(mask, own->sums + row * rounded + c);
                if (all->activation != PLAIN) {
                    sum = round_bf16(_mm512_add_ps(sum, load_bf16_masked(all->bias + first_column + c, mask)));
                    sum = activated(sum, all->activation);
                }
            }
            store_bf16(own->hidden + row * rounded + c, sum);
        }
    }
    for (ptrdiff_t row = 0; row < LANES && all->activation != PLAIN; row++)
        own->hidden[row * rounded + columns - 1] = bf16_of(1.0f);
}

static void block_of(const Products *all, const Group *its, const Scratch *own, ptrdiff_t token, ptrdiff_t tokens)
{
    ptrdiff_t columns = its->last - its->first, rounded = rounded_up(columns);
    const bf16 *x = all->x + token * all->x_stride;
    ptrdiff_t stride = all->x_stride;
    if (tokens < LANES) {
        for (ptrdiff_t t = 0; t < tokens; t++)
            memcpy(own->x + t * all->in, x + t * stride, all->in * sizeof(bf16));
        x = own->x;
        stride = all->in;
    }
    ptrdiff_t used = (columns + LANES - 1) / LANES * LANES;
    multiply(own->sums, rounded, x, stride, own->a, LANES * all->in, 2 * LANES, used, all->in);
    finish_hidden(own, all, its->first, columns);
    for (ptrdiff_t from = 0; from < all->out; from += SLICE) {
        ptrdiff_t size = all->out - from < SLICE ? all->out - from : SLICE;
        if (rounded == 16)
            multiply_short(own->sums, SLICE, own->hidden, rounded, own->b + 2 * from, 2 * LANES, 2 * all->out, size);
        else
            multiply(own->sums, SLICE, own->hidden, rounded, own->b + 2 * from, 2 * LANES, 2 * all->out, size, rounded);
        for (ptrdiff_t t = 0; t < tokens; t++)
            for (ptrdiff_t o = 0; o < size; o += LANES) {
                bf16 *y = all->y + (token + t) * all->y_stride + from + o;
                store_bf16(y, _mm512_add_ps(load_bf16(y), _mm512_load_ps(own->sums + t * SLICE + o)));
            }
    }
}

static void chunk_of(const Products *all, const Group *its, const Scratch *own, ptrdiff_t chunk)
{
    ptrdiff_t start = its->start + chunk * CHUNK, stop = its->stop < start + CHUNK ? its->stop : start + CHUNK;
    pack_a(own->a, all->a + its->first * all->in, its->last - its->first, all->in);
    pack_b(own->b, all->b + its->first * all->out, its->last - its->first, all->out);
    for (ptrdiff_t token = start; token < stop; token += LANES)
        block_of(all, its, own, token, stop - token < LANES ? stop - token : LANES);
}

/* The chunks one after another, on memory of this thread's own; 1 where there is none. */
static int chunks_of_all(const Products *all, const Group *groups, ptrdiff_t count, ptrdiff_t chunks, ptrdiff_t columns)
{
    ptrdiff_t wide = columns > SLICE ? columns : SLICE;
    size_t numbers = columns * (all->in + all->out) + LANES * (all->in + columns);
    char *memory = aligned_alloc(64, numbers * sizeof(bf16) + LANES * wide * sizeof(float));
    Scratch own = { .a = (bf16 *)memory };
    if (memory != NULL) {
        own.b = own.a + columns * all->in;
        own.x = own.b + columns * all->out;
        own.hidden = own.x + LANES * all->in;
        own.sums = (float *)(own.hidden + LANES * columns);
        memset(own.x, 0, LANES * all->in * sizeof(bf16));
    }
    #pragma omp for schedule(dynamic)
    for (ptrdiff_t task = 0; task < count * chunks; task++) {
        const Group *its = groups + task / chunks;
        if (memory != NULL && its->start + task % chunks * CHUNK < its->stop)
            chunk_of(all, its, &own, task % chunks);
    }
    free(memory);
    return memory == NULL;
}

/* Adds to y (tokens, out) each group's own product of x (tokens, in), which may be y itself; `a` is (columns, in), `b`
   (columns, out), `bias` (columns). Strides are in numbers; `in` is a multiple of 32, `out` of 16. 0, or 1 where memory is
   short. */
int add_groups(bf16 *y, ptrdiff_t y_stride, const bf16 *x, ptrdiff_t x_stride, const bf16 *a, const bf16 *b, const bf16 *bias,
    ptrdiff_t in, ptrdiff_t out, const Group *groups, ptrdiff_t count, int activation, int threads)
{
    Products all = { y, x, a, b, bias, y_stride, x_stride, in, out, activation };
    int64_t columns = 0, longest = 0;
    int failed = 0;
    for (ptrdiff_t g = 0; g < count; g++) {
        columns = groups[g].last - groups[g].first > columns ? groups[g].last - groups[g].first : columns;
        longest = groups[g].stop - groups[g].start > longest ? groups[g].stop - groups[g].start : longest;
    }
    #pragma omp parallel num_threads(threads) reduction(| : failed)
    {
        Tiles kept = begin_tiles();
        failed = chunks_of_all(&all, groups, count, (longest + CHUNK - 1) / CHUNK, rounded_up(columns));
        set_back(&kept);
    }
    return failed;
}

/* Products with frozen weights, by the processor's matrix tiles (AMX).

   A weight (out, in) is kept as tiles of 16 outputs x 32 inputs: 16 rows of input pairs, each of 16 outputs x 2
   inputs, which is what a tile product takes as its right side. Four tiles of neighbouring outputs lie together,
   then come those of the next 32 inputs, so that few tokens' product reads the weight as one stream. */
#include "linear.h"
#include <omp.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { TILE = 512, SIDE = 16, DEPTH = 32 };

int request_tiles(void)
{
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
    return (int)syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA);
}

/* Tiles of outputs that lie beside the one at `block`. */
static inline ptrdiff_t abreast(ptrdiff_t block, ptrdiff_t blocks)
{
    ptrdiff_t group = block / ABREAST * ABREAST;
    return blocks - group < ABREAST ? blocks - group : ABREAST;
}

static inline ptrdiff_t place(ptrdiff_t block, ptrdiff_t deep, ptrdiff_t blocks, ptrdiff_t depth)
{
    ptrdiff_t group = block / ABREAST * ABREAST;
    return (group * depth + deep * abreast(block, blocks) + block - group) * TILE;
}

void pack_weight(const bf16 *weight, bf16 *packed, ptrdiff_t out, ptrdiff_t in)
{
    ptrdiff_t blocks = out / SIDE, depth = in / DEPTH;
    for (ptrdiff_t o = 0; o < out; o++)
        for (ptrdiff_t i = 0; i < in; i++)
            packed[place(o / SIDE, i / DEPTH, blocks, depth) + i % DEPTH / 2 * 32 + o % SIDE * 2 + i % 2]
                = weight[o * in + i];
}

void unpack_weight(const bf16 *packed, bf16 *weight, ptrdiff_t out, ptrdiff_t in)
{
    ptrdiff_t blocks = out / SIDE, depth = in / DEPTH;
    for (ptrdiff_t o = 0; o < out; o++)
        for (ptrdiff_t i = 0; i < in; i++)
            weight[o * in + i]
                = packed[place(o / SIDE, i / DEPTH, blocks, depth) + i % DEPTH / 2 * 32 + o % SIDE * 2 + i % 2];
}

/* Tiles 0 to 3 gather sums, 4 and 5 hold tokens (up to 16 and the rest up to 32), 6 and 7 weights. */
static void configure(ptrdiff_t upper, ptrdiff_t lower)
{
    struct { uint8_t palette, start, reserved[14]; uint16_t bytes[16]; uint8_t rows[16]; } tiles
        __attribute__((aligned(64))) = { .palette = 1 };
    const ptrdiff_t rows[8] = { upper, upper, lower ? lower : upper, lower ? lower : upper, upper, lower ? lower : 1, 16, 16 };
    for (int tile = 0; tile < 8; tile++) {
        tiles.bytes[tile] = 64;
        tiles.rows[tile] = (uint8_t)rows[tile];
    }
    _tile_loadconfig(&tiles);
}

static void finish(const Product *p, const float *sums, ptrdiff_t token, ptrdiff_t tokens, ptrdiff_t block)
{
    __m512 bias = p->bias ? load_bf16(p->bias + block * SIDE) : _mm512_setzero_ps();
    for (ptrdiff_t row = 0; row < tokens; row++)
        store_bf16(p->y + (token + row) * p->out + block * SIDE, _mm512_add_ps(_mm512_load_ps(sums + row * SIDE), bias));
}

/* Up to 16 tokens, up to four blocks that lie together. */
static void few(const Product *p, ptrdiff_t token, ptrdiff_t tokens, ptrdiff_t block)
{
    float sums[SIDE * SIDE] __attribute__((aligned(64)));
    ptrdiff_t depth = p->in / DEPTH, blocks = p->out / SIDE, count = abreast(block, blocks);
    const bf16 *weights = p->packed + place(block, 0, blocks, depth), *x = p->x + token * p->in;
    _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3);
    for (ptrdiff_t deep = 0; deep < depth; deep++, weights += count * TILE) {
        _tile_loadd(4, x + deep * DEPTH, p->in * 2);
        if (count == ABREAST)
            for (ptrdiff_t line = 0; line < 4 * TILE; line += 32)
                _mm_prefetch((const char *)(weights + 4 * 4 * TILE + line), _MM_HINT_T0);
        _tile_loadd(6, weights, 64); _tile_dpbf16ps(0, 4, 6);
        if (count > 1) { _tile_loadd(7, weights + TILE, 64); _tile_dpbf16ps(1, 4, 7); }
        if (count > 2) { _tile_loadd(6, weights + 2 * TILE, 64); _tile_dpbf16ps(2, 4, 6); }
        if (count > 3) { _tile_loadd(7, weights + 3 * TILE, 64); _tile_dpbf16ps(3, 4, 7); }
    }
    _tile_stored(0, sums, 64); finish(p, sums, token, tokens, block);
    if (count > 1) { _tile_stored(1, sums, 64); finish(p, sums, token, tokens, block + 1); }
    if (count > 2) { _tile_stored(2, sums, 64); finish(p, sums, token, tokens, block + 2); }
    if (count > 3) { _tile_stored(3, sums, 64); finish(p, sums, token, tokens, block + 3); }
}

/* 17 to 32 tokens, two blocks that lie together, or the last one alone. */
static void many(const Product *p, ptrdiff_t token, ptrdiff_t tokens, ptrdiff_t block)
{
    float sums[SIDE * SIDE] __attribute__((aligned(64)));
    ptrdiff_t depth = p->in / DEPTH, blocks = p->out / SIDE, step = abreast(block, blocks) * TILE;
    const bf16 *weights = p->packed + place(block, 0, blocks, depth), *x = p->x + token * p->in;
    int two = block + 1 < blocks;
    _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3);
    for (ptrdiff_t deep = 0; deep < depth; deep++, weights += step) {
        _tile_loadd(4, x + deep * DEPTH, p->in * 2);
        _tile_loadd(5, x + SIDE * p->in + deep * DEPTH, p->in * 2);
        _tile_loadd(6, weights, 64);
        _tile_dpbf16ps(0, 4, 6); _tile_dpbf16ps(2, 5, 6);
        if (two) { _tile_loadd(7, weights + TILE, 64); _tile_dpbf16ps(1, 4, 7); _tile_dpbf16ps(3, 5, 7); }
    }
    _tile_stored(0, sums, 64); finish(p, sums, token, SIDE, block);
    _tile_stored(2, sums, 64); finish(p, sums, token + SIDE, tokens - SIDE, block);
    if (!two) return;
    _tile_stored(1, sums, 64); finish(p, sums, token, SIDE, block + 1);
    _tile_stored(3, sums, 64); finish(p, sums, token + SIDE, tokens - SIDE, block + 1);
}

/* Weights that all tokens go through before the next ones, so that a core's second cache keeps them meanwhile. */
enum { PANEL = 512 * 1024 };

/* Tokens start..stop with the blocks first..last; `first` is where a group begins. */
static void part(const Product *p, ptrdiff_t start, ptrdiff_t stop, ptrdiff_t first_block, ptrdiff_t last_block)
{
    ptrdiff_t full = start + (stop - start) / 32 * 32, rest = stop - full;
    Tiles kept = tiles_as_they_are();
    if (full > start) {
        configure(16, 16);
        ptrdiff_t panel = PANEL / (SIDE * p->in) / ABREAST * ABREAST;
        panel = panel < ABREAST ? ABREAST : panel;
        for (ptrdiff_t from = first_block; from < last_block; from += panel)
            for (ptrdiff_t token = start; token < full; token += 32)
                for (ptrdiff_t block = from; block < last_block && block < from + panel; block += 2)
                    many(p, token, 32, block);
    }
    if (rest > 16) {
        configure(16, rest - 16);
        for (ptrdiff_t block = first_block; block < last_block; block += 2)
            many(p, full, rest, block);
    } else if (rest > 0) {
        configure(rest, 0);
        for (ptrdiff_t block = first_block; block < last_block; block += ABREAST)
            few(p, full, rest, block);
    }
    set_back(&kept);
}

void share(const Product *p, ptrdiff_t tokens, int me, int of)
{
    ptrdiff_t blocks = p->out / SIDE, groups = (blocks + ABREAST - 1) / ABREAST, spans = (tokens + 31) / 32;
    int by_tokens = spans >= 4 * of;
    ptrdiff_t all = by_tokens ? spans : groups, begin = all * me / of, end = all * (me + 1) / of;
    if (by_tokens)
        part(p, begin * 32, end * 32 < tokens ? end * 32 : tokens, 0, blocks);
    else
        part(p, 0, tokens, begin * ABREAST, end * ABREAST < blocks ? end * ABREAST : blocks);
}

/* y (tokens, out) = x (tokens, in) W^T + bias, which may be null. `in` is a multiple of 32, `out` of 16. */
void linear(const bf16 *x, const bf16 *packed, const bf16 *bias, bf16 *y, ptrdiff_t tokens, ptrdiff_t in,
    ptrdiff_t out, int threads)
{
    Product p = { x, packed, bias, y, in, out };
    #pragma omp parallel num_threads(threads) if (threads > 1)
    share(&p, tokens, omp_get_thread_num(), omp_get_num_threads());
}

/* Products of sixteen rows by the processor's matrix tiles, and what brings numbers into their order. */
#ifndef MULTIGRAFT_TILES_H
#define MULTIGRAFT_TILES_H

#include "common.h"

enum { LANES = 16 };

static const struct {
    uint8_t palette, row, reserved[14];
    uint16_t bytes[16];
    uint8_t rows[16];
} SHAPES = { .palette = 1, .bytes = { 64, 64, 64, 64, 64, 32, 64, 64 }, .rows = { 16, 16, 16, 16, 16, 16, 8, 8 } };

/* Sets this thread's tiles up; gives how they were, to be set back to that. */
static inline Tiles begin_tiles(void)
{
    Tiles kept = tiles_as_they_are();
    _tile_loadconfig(&SHAPES);
    return kept;
}

/* Sixteen vectors of 32-bit numbers turned: lane i of vector j becomes lane j of vector i. */
static inline void turn(__m512i v[LANES])
{
    __m512i t[LANES];
    for (int i = 0; i < LANES; i += 2) {
        t[i] = _mm512_unpacklo_epi32(v[i], v[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(v[i], v[i + 1]);
    }
    for (int i = 0; i < LANES; i += 4) {
        v[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        v[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        v[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        v[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (int i = 0; i < 4; i++) {
        t[i] = _mm512_shuffle_i32x4(v[i], v[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_i32x4(v[i], v[i + 4], 0xdd);
        t[i + 8] = _mm512_shuffle_i32x4(v[i + 8], v[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_i32x4(v[i + 8], v[i + 12], 0xdd);
    }
    for (int i = 0; i < 4; i++) {
        v[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
        v[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
        v[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
        v[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd);
    }
}

/* Sixteen numbers, each in the lower half of a pair. */
static inline __m512i wide(const bf16 *from)
{
    return _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)from));
}

/* c (16, n) = a (16, k) b: b holds pairs of inputs, (k / 2, 16, 2) for each sixteen outputs; these blocks are `across`
   and their rows `down` numbers apart. Of `a` and `c` the strides of rows are given. n is a multiple of 16, k of 32. `more`: the
   product is added to c. */
static inline __attribute__((always_inline)) void multiply(float *c, ptrdiff_t c_stride, const bf16 *a, ptrdiff_t a_stride,
    const bf16 *b, ptrdiff_t across, ptrdiff_t down, ptrdiff_t n, ptrdiff_t k, const int more)
{
    const ptrdiff_t from_a = a_stride * sizeof(bf16), from_b = down * sizeof(bf16), to_c = c_stride * sizeof(float);
    ptrdiff_t column = 0;
    for (; column + 2 * LANES <= n; column += 2 * LANES) {
        const bf16 *one = b + column / LANES * across, *other = one + across;
        _tile_zero(0);
        _tile_zero(1);
        if (more) {
            _tile_loadd(0, c + column, to_c);
            _tile_loadd(1, c + column + LANES, to_c);
        }
        for (ptrdiff_t i = 0; i < k; i += 2 * LANES) {
            _tile_loadd(2, a + i, from_a);
            _tile_loadd(3, one + i / 2 * down, from_b);
            _tile_dpbf16ps(0, 2, 3);
            _tile_loadd(4, other + i / 2 * down, from_b);
            _tile_dpbf16ps(1, 2, 4);
        }
        _tile_stored(0, c + column, to_c);
        _tile_stored(1, c + column + LANES, to_c);
    }
    if (column < n) {
        _tile_zero(0);
        if (more)
            _tile_loadd(0, c + column, to_c);
        for (ptrdiff_t i = 0; i < k; i += 2 * LANES) {
            _tile_loadd(2, a + i, from_a);
            _tile_loadd(3, b + column / LANES * across + i / 2 * down, from_b);
            _tile_dpbf16ps(0, 2, 3);
        }
        _tile_stored(0, c + column, to_c);
    }
}

/* The same with k = 16, of which the rows of `b` beyond the last are not read. */
static inline __attribute__((always_inline)) void multiply_short(float *c, ptrdiff_t c_stride, const bf16 *a,
    ptrdiff_t a_stride, const bf16 *b, ptrdiff_t across, ptrdiff_t down, ptrdiff_t n)
{
    const ptrdiff_t from_b = down * sizeof(bf16), to_c = c_stride * sizeof(float);
    ptrdiff_t column = 0;
    _tile_loadd(5, a, a_stride * sizeof(bf16));
    for (; column + 2 * LANES <= n; column += 2 * LANES) {
        const bf16 *one = b + column / LANES * across;
        _tile_zero(0);
        _tile_zero(1);
        _tile_loadd(6, one, from_b);
        _tile_dpbf16ps(0, 5, 6);
        _tile_loadd(7, one + across, from_b);
        _tile_dpbf16ps(1, 5, 7);
        _tile_stored(0, c + column, to_c);
        _tile_stored(1, c + column + LANES, to_c);
    }
    if (column < n) {
        _tile_zero(0);
        _tile_loadd(6, b + column / LANES * across, from_b);
        _tile_dpbf16ps(0, 5, 6);
        _tile_stored(0, c + column, to_c);
    }
}

#endif

/* Attention of rows that go on by one token, over the KV cache where it lies; and what puts tokens there. */
#include "attention.h"
#include <string.h>

enum { MOST_QUERIES = 16, SPAN = 64, MOST_SIZE = 256 };

/* x1' = x1 cos - x2 sin, x2' = x2 cos + x1 sin, over the two halves of each head; each product kept in bfloat16. */
static void rotate(bf16 *x, const bf16 *cosine, const bf16 *sine, ptrdiff_t heads, ptrdiff_t size)
{
    ptrdiff_t half = size / 2;
    for (ptrdiff_t h = 0; h < heads; h++, x += size)
        for (ptrdiff_t i = 0; i < half; i += 16) {
            __mmask16 mask = first(half - i);
            __m512 low = load_bf16_masked(x + i, mask), high = load_bf16_masked(x + half + i, mask);
            __m512 low_cosine = load_bf16_masked(cosine + i, mask), low_sine = load_bf16_masked(sine + i, mask);
            __m512 high_cosine = load_bf16_masked(cosine + half + i, mask);
            __m512 high_sine = load_bf16_masked(sine + half + i, mask);
            store_bf16_masked(x + i, _mm512_sub_ps(round_bf16(_mm512_mul_ps(low, low_cosine)),
                round_bf16(_mm512_mul_ps(high, low_sine))), mask);
            store_bf16_masked(x + half + i, _mm512_add_ps(round_bf16(_mm512_mul_ps(high, high_cosine)),
                round_bf16(_mm512_mul_ps(low, high_sine))), mask);
        }
}

void settle(bf16 *query, bf16 *key, const bf16 *value, const bf16 *cosine, const bf16 *sine, const Cached *cached,
    const Layout *layout)
{
    ptrdiff_t size = layout->size;
    rotate(query, cosine, sine, layout->heads, size);
    rotate(key, cosine, sine, layout->kv_heads, size);
    if (!cached->row)
        return;
    bf16 *keys = (bf16 *)(cached->row + layout->keys), *values = (bf16 *)(cached->row + layout->values);
    for (ptrdiff_t h = 0; h < layout->kv_heads; h++) {
        ptrdiff_t place = (h * cached->capacity + cached->position) * size;
        memcpy(keys + place, key + h * size, (size_t)size * sizeof(bf16));
        memcpy(values + place, value + h * size, (size_t)size * sizeof(bf16));
    }
}

/* Turns a step's queries (tokens, heads, size) and keys (tokens, kv_heads, size) to their positions in place, and
   writes keys and values into the cache. `cosine` and `sine` are (tokens, size); strides of tokens in numbers. */
void rotate_and_cache(bf16 *query, ptrdiff_t query_stride, bf16 *key, ptrdiff_t key_stride, const bf16 *value,
    ptrdiff_t value_stride, const bf16 *cosine, const bf16 *sine, const Cached *cached, ptrdiff_t tokens,
    const Layout *layout, int threads)
{
    ptrdiff_t size = layout->size;
    #pragma omp parallel for num_threads(threads) if (threads > 1 && tokens >= 64)
    for (ptrdiff_t t = 0; t < tokens; t++)
        settle(query + t * query_stride, key + t * key_stride, value + t * value_stride, cosine + t * size,
            sine + t * size, cached + t, layout);
}

/* Sixteen sums of sixteen numbers each, in order. */
static inline __m512 sums_of(__m512 *v)
{
    for (int i = 0; i < 8; i++) /* lanes of 32 bits */
        v[i] = _mm512_add_ps(_mm512_unpacklo_ps(v[2 * i], v[2 * i + 1]), _mm512_unpackhi_ps(v[2 * i], v[2 * i + 1]));
    for (int i = 0; i < 4; i++) { /* of 64 */
        __m512d a = _mm512_castps_pd(v[2 * i]), b = _mm512_castps_pd(v[2 * i + 1]);
        v[i] = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)), _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)));
    }
    for (int i = 0; i < 2; i++) /* of 128 */
        v[i] = _mm512_add_ps(_mm512_shuffle_f32x4(v[2 * i], v[2 * i + 1], 0x88),
            _mm512_shuffle_f32x4(v[2 * i], v[2 * i + 1], 0xdd));
    return _mm512_add_ps(_mm512_shuffle_f32x4(v[0], v[1], 0x88), _mm512_shuffle_f32x4(v[0], v[1], 0xdd));
}

/* The products of one query with sixteen keys; `count` of them are read. */
static inline __m512 scores_of(const bf16 *query, const bf16 *keys, ptrdiff_t size, ptrdiff_t count)
{
    __m512 sums[16];
    for (int k = 0; k < 16; k++)
        sums[k] = _mm512_setzero_ps();
    for (ptrdiff_t i = 0; i < size; i += 32) {
        __mmask32 mask = size - i >= 32 ? 0xffffffffu : (1u << (size - i)) - 1;
        __m512bh own = (__m512bh)_mm512_maskz_loadu_epi16(mask, query + i);
        for (int k = 0; k < 16; k++)
            if (k < count)
                sums[k] = _mm512_dpbf16_ps(sums[k], own, (__m512bh)_mm512_maskz_loadu_epi16(mask, keys + k * size + i));
    }
    return sums_of(sums);
}

/* One query head's running softmax: the greatest score yet, the sum of exponentials and the weighted values. */
typedef struct {
    float greatest, sum;
    __m512 values[MOST_SIZE / 16];
} Running;

static void take_in(Running *run, float *scores, ptrdiff_t count, const bf16 *values, ptrdiff_t size)
{
    __m512 most = _mm512_set1_ps(-INFINITY);
    for (ptrdiff_t k = 0; k < count; k += 16)
        most = _mm512_max_ps(most, _mm512_mask_loadu_ps(most, first(count - k), scores + k));
    float greatest = fmaxf(run->greatest, _mm512_reduce_max_ps(most));
    float kept = run->sum == 0.0f ? 0.0f : expf(run->greatest - greatest);
    __m512 total = _mm512_setzero_ps();
    for (ptrdiff_t k = 0; k < count; k += 16) {
        __mmask16 mask = first(count - k);
        __m512 weights = exponential(_mm512_sub_ps(_mm512_maskz_loadu_ps(mask, scores + k), _mm512_set1_ps(greatest)));
        total = _mm512_mask_add_ps(total, mask, total, weights);
        _mm512_mask_storeu_ps(scores + k, mask, weights);
    }
    run->sum = run->sum * kept + _mm512_reduce_add_ps(total);
    run->greatest = greatest;
    for (ptrdiff_t i = 0; i < size; i += 64) {
        __m512 sums[4];
        __mmask16 masks[4];
        for (int w = 0; w < 4; w++) {
            masks[w] = size - i - 16 * w > 0 ? first(size - i - 16 * w) : 0;
            sums[w] = _mm512_mul_ps(run->values[i / 16 + w], _mm512_set1_ps(kept));
        }
        for (ptrdiff_t k = 0; k < count; k++) {
            __m512 weight = _mm512_set1_ps(scores[k]);
            for (int w = 0; w < 4; w++)
                sums[w] = _mm512_fmadd_ps(weight, load_bf16_masked(values + k * size + i + 16 * w, masks[w]), sums[w]);
        }
        for (int w = 0; w < 4; w++)
            run->values[i / 16 + w] = sums[w];
    }
}

/* One KV head of one row with the query heads that share it. */
static void attend_head(const bf16 *query, bf16 *out, ptrdiff_t queries, const bf16 *keys, const bf16 *values,
    ptrdiff_t start, ptrdiff_t stop, ptrdiff_t size, float scaling)
{
    float scores[SPAN];
    Running runs[MOST_QUERIES];
    for (ptrdiff_t q = 0; q < queries; q++) {
        runs[q].greatest = -INFINITY;
        runs[q].sum = 0.0f;
        for (ptrdiff_t i = 0; i < MOST_SIZE / 16; i++)
            runs[q].values[i] = _mm512_setzero_ps();
    }
    for (ptrdiff_t from = start; from < stop; from += SPAN) {
        ptrdiff_t count = stop - from < SPAN ? stop - from : SPAN;
        for (ptrdiff_t q = 0; q < queries; q++) {
            for (ptrdiff_t k = 0; k < count; k += 16)
                _mm512_storeu_ps(scores + k, _mm512_mul_ps(_mm512_set1_ps(scaling),
                    scores_of(query + q * size, keys + (from + k) * size, size, count - k)));
            take_in(runs + q, scores, count, values + from * size, size);
        }
    }
    for (ptrdiff_t q = 0; q < queries; q++)
        for (ptrdiff_t i = 0; i < size; i += 16)
            store_bf16_masked(out + q * size + i,
                _mm512_div_ps(runs[q].values[i / 16], _mm512_set1_ps(runs[q].sum)), first(size - i));
}

void attend(const bf16 *query, bf16 *out, const Cached *cached, const Layout *layout, ptrdiff_t window, float scaling)
{
    ptrdiff_t size = layout->size, queries = layout->heads / layout->kv_heads, stop = cached->position + 1;
    ptrdiff_t start = window && stop > window ? stop - window : 0;
    for (ptrdiff_t h = 0; h < layout->kv_heads; h++) {
        ptrdiff_t place = h * cached->capacity * size;
        attend_head(query + h * queries * size, out + h * queries * size, queries,
            (const bf16 *)(cached->row + layout->keys) + place, (const bf16 *)(cached->row + layout->values) + place,
            start, stop, size, scaling);
    }
}

/* out (tokens, heads, size): of the tokens listed, each over its row up to itself, `window` tokens at most (0: all).
   Their keys and values must be in the cache. */
void attend_cached(const bf16 *query, ptrdiff_t query_stride, bf16 *out, const Cached *cached, const int64_t *tokens,
    ptrdiff_t count, const Layout *layout, ptrdiff_t window, float scaling, int threads)
{
    #pragma omp parallel for schedule(dynamic) num_threads(threads) if (threads > 1)
    for (ptrdiff_t n = 0; n < count; n++) {
        ptrdiff_t t = tokens[n];
        attend(query + t * query_stride, out + t * layout->heads * layout->size, cached + t, layout, window, scaling);
    }
}

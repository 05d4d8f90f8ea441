/* Attention of whole sequences, and of pieces that continue one: softmax(q k^T scale) v, each among its own keys.

   A step's tokens lie side by side and no row is padded. Sixteen queries at a time meet tiles of keys, in pairs of
   numbers, and of values, in pairs of tokens. Scores and sums are floats; probabilities are rounded to bfloat16 before
   they meet the values and divided by their sum afterwards, as torch's own kernel does. */
#include "tiles.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* One sequence: `count` tokens from `start` on, after `past` ones whose keys and values (heads, places, size) have
   `past_stride` numbers from head to head, and `layer_bytes` from layer to layer. */
typedef struct {
    int64_t start, count, past, past_stride, layer_bytes;
    const char *past_keys, *past_values;
} Sequence;

/* Numbers from token to token and from head to head. */
typedef struct {
    const bf16 *data;
    int64_t token, head;
} States;

typedef struct {
    bf16 *out;
    States query, key, value;
    int64_t heads, shared, layer;
    float scale;
    int causal;
} Attention;

typedef struct {
    bf16 *keys, *values, *queries, *probabilities;
    float *scores, *sums;
    int64_t room;
} Scratch;

/* Where one head's keys, or values, of a sequence lie: those of the past, then its own. */
typedef struct {
    const bf16 *past, *own;
    int64_t count, stride, seen;
} Places;

static inline Places places_of(const Sequence *row, const States *own, const char *past, int64_t layer, int64_t head)
{
    return (Places) {
        .past = (const bf16 *)(past + layer * row->layer_bytes) + head * row->past_stride,
        .own = own->data + row->start * own->token + head * own->head,
        .count = row->past,
        .stride = own->token,
        .seen = row->past + row->count,
    };
}

static inline const bf16 *place_at(const Places *its, int64_t size, int64_t place)
{
    return place < its->count ? its->past + place * size : its->own + (place - its->count) * its->stride;
}

/* Keys in blocks of sixteen: packed[block][size / 2][key][2]; beyond the last they are zero. */
static inline void pack_keys(bf16 *packed, const Places *its, int64_t size, int64_t room)
{
    for (int64_t block = 0; block < room; block += LANES)
        for (int64_t n = 0; n < size; n += 2 * LANES) {
            __m512i v[LANES];
            for (int i = 0; i < LANES; i++)
                v[i] = block + i < its->seen ? _mm512_loadu_si512(place_at(its, size, block + i) + n)
                                             : _mm512_setzero_si512();
            turn(v);
            for (int i = 0; i < LANES; i++)
                _mm512_store_si512(packed + block * size + (n + 2 * i) * LANES, v[i]);
        }
}

/* Values of two tokens side by side: packed[token / 2][size][2]; beyond the last they are zero. */
static inline void pack_values(bf16 *packed, const Places *its, int64_t size, int64_t room)
{
    for (int64_t place = 0; place < room; place += 2)
        for (int64_t n = 0; n < size; n += LANES) {
            __m512i one = _mm512_setzero_si512(), other = one;
            if (place < its->seen)
                one = wide(place_at(its, size, place) + n);
            if (place + 1 < its->seen)
                other = wide(place_at(its, size, place + 1) + n);
            _mm512_store_si512(packed + place * size + 2 * n, _mm512_or_si512(one, _mm512_slli_epi32(other, 16)));
        }
}

/* The greatest number of each of sixteen vectors, as one vector. */
static inline __m512 each_max(__m512 v[LANES])
{
    turn((__m512i *)v);
    __m512 most = v[0];
    for (int i = 1; i < LANES; i++)
        most = _mm512_max_ps(most, v[i]);
    return most;
}

/* The sum of each of sixteen vectors, as one vector. */
static inline __m512 each_sum(__m512 v[LANES])
{
    turn((__m512i *)v);
    for (int width = LANES / 2; width; width /= 2)
        for (int i = 0; i < width; i++)
            v[i] = _mm512_add_ps(v[i], v[i + width]);
    return v[0];
}

/* Sixteen queries' probabilities of their first `sees` of `used` scores, not divided by their sums. */
static inline void soften(const Scratch *own, const int64_t sees[LANES], int64_t used, float scale)
{
    __m512 lane[LANES], minus = _mm512_set1_ps(-INFINITY), factor = _mm512_set1_ps(scale);
    float most[LANES] __attribute__((aligned(64)));
    for (int q = 0; q < LANES; q++) {
        lane[q] = minus;
        for (int64_t i = 0; i < sees[q]; i += LANES)
            lane[q] = _mm512_mask_max_ps(
                lane[q], first(sees[q] - i), lane[q], _mm512_load_ps(own->scores + q * own->room + i));
    }
    _mm512_store_ps(most, _mm512_mul_ps(each_max(lane), factor));
    for (int q = 0; q < LANES; q++) {
        __m512 sum = _mm512_setzero_ps(), top = _mm512_set1_ps(most[q]);
        for (int64_t i = 0; i < used; i += LANES) {
            __m512 e = _mm512_setzero_ps();
            if (i < sees[q]) {
                e = exponential(_mm512_fmsub_ps(_mm512_load_ps(own->scores + q * own->room + i), factor, top));
                e = _mm512_maskz_mov_ps(first(sees[q] - i), e);
                sum = _mm512_add_ps(sum, e);
            }
            store_bf16(own->probabilities + q * own->room + i, e);
        }
        lane[q] = sum;
    }
    _mm512_store_ps(own->sums, each_sum(lane));
}

/* Where the query of a place in the row's queries lies: token by token, those of all heads that share their keys. */
static inline ptrdiff_t query_at(const Attention *all, const Sequence *row, int64_t kv_head, int64_t place, ptrdiff_t token,
    ptrdiff_t head)
{
    return (row->start + place / all->shared) * token + (kv_head * all->shared + place % all->shared) * head;
}

static inline __attribute__((always_inline)) void attend_head(
    const Attention *all, const Sequence *row, int64_t kv_head, int64_t size, const Scratch *own)
{
    int64_t total = row->count * all->shared, seen = row->past + row->count;
    Places keys = places_of(row, &all->key, row->past_keys, all->layer, kv_head);
    Places values = places_of(row, &all->value, row->past_values, all->layer, kv_head);
    pack_keys(own->keys, &keys, size, (seen + 31) / 32 * 32);
    pack_values(own->values, &values, size, (seen + 31) / 32 * 32);
    for (int64_t at = 0; at < total; at += LANES) {
        int64_t sees[LANES], most = 0, now = total - at < LANES ? total - at : LANES;
        for (int64_t q = 0; q < LANES; q++)
            sees[q] = q >= now ? 1 : all->causal ? row->past + (at + q) / all->shared + 1 : seen;
        for (int64_t q = 0; q < now; q++) {
            const bf16 *query = all->query.data + query_at(all, row, kv_head, at + q, all->query.token, all->query.head);
            memcpy(own->queries + q * size, query, size * sizeof(bf16));
            most = sees[q];
        }
        int64_t used = (most + 31) / 32 * 32;
        multiply(own->scores, own->room, own->queries, size, own->keys, LANES * size, 2 * LANES, used, size, 0);
        soften(own, sees, used, all->scale);
        multiply(own->scores, size, own->probabilities, own->room, own->values, 2 * LANES, 2 * size, size, used, 0);
        for (int64_t q = 0; q < now; q++) {
            bf16 *out = all->out + query_at(all, row, kv_head, at + q, all->heads * size, size);
            __m512 over = _mm512_set1_ps(1.0f / own->sums[q]);
            for (int64_t n = 0; n < size; n += LANES)
                store_bf16(out + n, _mm512_mul_ps(_mm512_load_ps(own->scores + q * size + n), over));
        }
    }
}

static void attend_any(const Attention *all, const Sequence *row, int64_t kv_head, int64_t size, const Scratch *own)
{
    if (size == 32)
        attend_head(all, row, kv_head, 32, own);
    else if (size == 64)
        attend_head(all, row, kv_head, 64, own);
    else
        attend_head(all, row, kv_head, size, own);
}

/* The sequences one after another, on memory of this thread's own; 1 where there is none. */
static int attend_all(const Attention *all, const Sequence *rows, int64_t count, int64_t size, int64_t room)
{
    int64_t kv_heads = all->heads / all->shared, broad = room > size ? room : size;
    size_t halves = 2 * room * size + LANES * (size + room), floats = LANES * (broad + 1);
    bf16 *memory = aligned_alloc(64, halves * sizeof(bf16) + floats * sizeof(float));
    Scratch own = { .keys = memory, .room = room };
    if (memory != NULL) {
        own.values = own.keys + room * size;
        own.queries = own.values + room * size;
        own.probabilities = own.queries + LANES * size;
        own.scores = (float *)(own.probabilities + LANES * room);
        own.sums = own.scores + LANES * broad;
        memset(own.queries, 0, LANES * size * sizeof(bf16));
    }
    #pragma omp for schedule(dynamic)
    for (int64_t task = 0; task < count * kv_heads; task++)
        if (memory != NULL)
            attend_any(all, rows + task / kv_heads, task % kv_heads, size, &own);
    free(memory);
    return memory == NULL;
}

/* out (tokens, heads, size) = the sequences' queries (tokens, heads, size) attending to their own keys and values (tokens,
   heads / shared, size) in a layer. `strides` are numbers from token to token and from head to head of the three; a head's
   own `size` numbers, a multiple of 32, lie side by side. 0, or 1 where memory is short. */
int attend_sequences(bf16 *out, const bf16 *query, const bf16 *key, const bf16 *value, const int64_t *strides,
    const Sequence *rows, ptrdiff_t count, ptrdiff_t layer, ptrdiff_t heads, ptrdiff_t shared, ptrdiff_t size, float scale,
    int causal, int threads)
{
    Attention all = {
        out, { query, strides[0], strides[1] }, { key, strides[2], strides[3] }, { value, strides[4], strides[5] },
        heads, shared, layer, scale, causal,
    };
    int64_t room = 0;
    int failed = 0;
    for (ptrdiff_t i = 0; i < count; i++)
        room = rows[i].past + rows[i].count > room ? rows[i].past + rows[i].count : room;
    #pragma omp parallel num_threads(threads) reduction(| : failed)
    {
        Tiles kept = begin_tiles();
        failed = attend_all(&all, rows, count, size, (room + 31) / 32 * 32);
        set_back(&kept);
    }
    return failed;
}

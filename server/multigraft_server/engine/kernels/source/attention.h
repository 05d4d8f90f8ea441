/* Attention over the KV cache where it lies. */
#ifndef MULTIGRAFT_ATTENTION_H
#define MULTIGRAFT_ATTENTION_H

#include "common.h"

/* Where one token of a step is cached: its row's first key in the first layer (null when it is not cached), the
   places of the row, and the token's own place. */
typedef struct {
    char *row;
    int64_t capacity, position;
} Cached;

/* The sizes of a layer's states: query heads, KV heads, numbers of a head; the bytes from the first layer's keys to
   this one's keys and values. */
typedef struct {
    int64_t heads, kv_heads, size, keys, values;
} Layout;

/* Turns one token's queries and keys to its position in place, and puts its keys and values into the cache. */
void settle(bf16 *query, bf16 *key, const bf16 *value, const bf16 *cosine, const bf16 *sine, const Cached *cached,
    const Layout *layout);

/* One token's queries (heads, size) over its row up to itself, `window` tokens at most (0: all), into `out`. */
void attend(const bf16 *query, bf16 *out, const Cached *cached, const Layout *layout, ptrdiff_t window, float scaling);

#endif

/* Products with frozen weights. */
#ifndef MULTIGRAFT_LINEAR_H
#define MULTIGRAFT_LINEAR_H

#include "common.h"

enum { ABREAST = 4 };

/* y (tokens, out) = x (tokens, in) W^T + bias, W packed, bias possibly null. */
typedef struct {
    const bf16 *x, *packed, *bias;
    bf16 *y;
    ptrdiff_t in, out;
} Product;

/* What thread `me` of `of` computes of a product: together they compute all of it. */
void share(const Product *p, ptrdiff_t tokens, int me, int of);

#endif

/* What happens to one token's `size` numbers between the products. */
#ifndef MULTIGRAFT_POINTWISE_H
#define MULTIGRAFT_POINTWISE_H

#include "common.h"

/* y = weight * x / rms(x), the quotient kept in bfloat16 before it meets the weight, as transformers' models do. */
void norm(const bf16 *x, const bf16 *weight, bf16 *y, ptrdiff_t size, float epsilon);

/* y = silu(gate) * up, silu kept in bfloat16 before the product. */
void gated(const bf16 *gate, const bf16 *up, bf16 *y, ptrdiff_t size);

/* y += x. */
void add(bf16 *y, const bf16 *x, ptrdiff_t size);

/* The tokens start..stop, which have the row `row` of a bank of scales. */
typedef struct {
    int64_t start, stop, row;
} Rows;

/* values = values scale + shift, the product kept in bfloat16 before it is shifted; `shift` may be null. */
void scaled(bf16 *values, const float *scale, const float *shift, ptrdiff_t size);

#endif

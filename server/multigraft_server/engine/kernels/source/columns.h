/* The two products with an adapter's columns. */
#ifndef MULTIGRAFT_COLUMNS_H
#define MULTIGRAFT_COLUMNS_H

#include "common.h"

/* The tokens start..stop, whose adapter has the columns first..last of a bank. */
typedef struct {
    int32_t start, stop, first, last;
} Group;

/* hidden (rows, columns) at `stride` = x (rows, in) A^T for A (columns, in), kept to bfloat16; it has room for a multiple
   of 16 columns. With a bias (columns) and an activation, hidden = activation(x A^T + bias), and the last column is 1. */
void first_product(const bf16 *x, ptrdiff_t x_stride, const bf16 *a, ptrdiff_t in, float *hidden, ptrdiff_t stride,
    ptrdiff_t rows, ptrdiff_t columns, const bf16 *bias, int activation);

/* y (rows, out) += hidden (rows, columns) B for B (columns, out). */
void second_product(bf16 *y, ptrdiff_t y_stride, const float *hidden, ptrdiff_t stride, const bf16 *b, ptrdiff_t out,
    ptrdiff_t rows, ptrdiff_t columns);

/* Have numbers brought near, in the order in which they lie. */
void fetch(const bf16 *from, ptrdiff_t count);

#endif

/* What adapters do at one module to the tokens of one thread. */
#ifndef MULTIGRAFT_DELTAS_H
#define MULTIGRAFT_DELTAS_H

#include "activations.h"
#include "columns.h"
#include "pointwise.h"

/* One place's scales and shifts of all slots (rows, n); `scale` is null where no slot has any, `shift` where none has one. */
typedef struct {
    const float *scale, *shift;
} Scales;

/* One place's products of all slots: first (columns, in), bias (columns), second (columns, out); null where there are none.
   Low-rank products have no bias. */
typedef struct {
    const bf16 *first, *second, *bias;
} Columns;

/* What a step's tokens have of one kind of place. */
typedef struct {
    const Rows *rows;
    int64_t count;
} RowTable;

typedef struct {
    const Group *groups;
    int64_t count;
} ColumnTable;

/* One thread's tokens. */
typedef struct {
    ptrdiff_t start, stop;
} Span;

/* Where what lies between two products is kept: `stride` numbers for each of a step's tokens. */
typedef struct {
    float *numbers;
    ptrdiff_t stride;
} Room;

/* values (tokens, size) = values scale + shift. */
void scale_own(const Scales *bank, const RowTable *table, bf16 *values, ptrdiff_t stride, ptrdiff_t size, Span own);

/* The first of two products, from x (tokens, in), with what `activation` says between them. */
void first_half(const Columns *bank, const ColumnTable *table, int activation, const bf16 *x, ptrdiff_t stride,
    ptrdiff_t in, Room hidden, Span own);

/* The second, added to y (tokens, out). */
void second_half(const Columns *bank, const ColumnTable *table, bf16 *y, ptrdiff_t stride, ptrdiff_t out, Room hidden,
    Span own);

#endif

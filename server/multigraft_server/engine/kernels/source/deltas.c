/* What adapters do at one module to the tokens of one thread, each token with its own adapter's. */
#include "deltas.h"

/* Which of the tokens start..stop are this thread's. */
static Span shared(Span own, ptrdiff_t start, ptrdiff_t stop)
{
    return (Span){ start > own.start ? start : own.start, stop < own.stop ? stop : own.stop };
}

void scale_own(const Scales *bank, const RowTable *table, bf16 *values, ptrdiff_t stride, ptrdiff_t size, Span own)
{
    if (!bank->scale)
        return;
    for (const Rows *its = table->rows; its < table->rows + table->count; its++) {
        Span tokens = shared(own, its->start, its->stop);
        for (ptrdiff_t t = tokens.start; t < tokens.stop; t++)
            scaled(values + t * stride, bank->scale + its->row * size,
                bank->shift ? bank->shift + its->row * size : NULL, size);
    }
}

void first_half(const Columns *bank, const ColumnTable *table, int activation, const bf16 *x, ptrdiff_t stride,
    ptrdiff_t in, Room hidden, Span own)
{
    if (!bank->first)
        return;
    for (const Group *its = table->groups; its < table->groups + table->count; its++) {
        Span tokens = shared(own, its->start, its->stop);
        ptrdiff_t columns = its->last - its->first, rows = tokens.stop - tokens.start;
        const bf16 *first = bank->first + its->first * in;
        if (rows <= 0)
            continue;
        fetch(first, columns * in);
        first_product(x + tokens.start * stride, stride, first, in, hidden.numbers + tokens.start * hidden.stride,
            hidden.stride, rows, columns, activation == PLAIN ? NULL : bank->bias + its->first, activation);
    }
}

void second_half(const Columns *bank, const ColumnTable *table, bf16 *y, ptrdiff_t stride, ptrdiff_t out, Room hidden,
    Span own)
{
    if (!bank->first)
        return;
    for (const Group *its = table->groups; its < table->groups + table->count; its++) {
        Span tokens = shared(own, its->start, its->stop);
        ptrdiff_t columns = its->last - its->first, rows = tokens.stop - tokens.start;
        const bf16 *second = bank->second + its->first * out;
        if (rows <= 0)
            continue;
        fetch(second, columns * out);
        second_product(y + tokens.start * stride, stride, hidden.numbers + tokens.start * hidden.stride, hidden.stride,
            second, out, rows, columns);
    }
}

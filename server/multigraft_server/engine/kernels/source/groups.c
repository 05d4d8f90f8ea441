/* Products of a step's tokens with their own adapters' columns, group by group: y += f(x A^T) B.

   f is nothing (LoRA), or adds a bias, is an activation and makes the last column 1 (bottlenecks). */
#include "activations.h"
#include "columns.h"

#include <stdlib.h>

/* Tokens of a group at a time: the columns are brought into the order of tiles anew for each. */
enum { CHUNK = 128 };

typedef struct {
    bf16 *y;
    const bf16 *x, *a, *b, *bias;
    ptrdiff_t y_stride, x_stride, in, out;
    int activation;
} Products;

static void chunk_of(const Products *all, const Group *its, ptrdiff_t chunk, float *hidden)
{
    ptrdiff_t start = its->start + chunk * CHUNK, stop = its->stop < start + CHUNK ? its->stop : start + CHUNK;
    ptrdiff_t columns = its->last - its->first, stride = (columns + 15) / 16 * 16;
    const bf16 *a = all->a + its->first * all->in, *b = all->b + its->first * all->out;
    fetch(b, columns * all->out);
    first_product(all->x + start * all->x_stride, all->x_stride, a, all->in, hidden, stride, stop - start, columns,
        all->bias ? all->bias + its->first : NULL, all->activation);
    second_product(all->y + start * all->y_stride, all->y_stride, hidden, stride, b, all->out, stop - start, columns);
}

/* The chunks one after another, on memory of this thread's own; 1 where there is none. */
static int chunks_of_all(const Products *all, const Group *groups, ptrdiff_t count, ptrdiff_t chunks, ptrdiff_t columns)
{
    float *hidden = aligned_alloc(64, CHUNK * ((columns + 15) / 16 * 16) * sizeof(float));
    #pragma omp for schedule(dynamic)
    for (ptrdiff_t task = 0; task < count * chunks; task++) {
        const Group *its = groups + task / chunks;
        if (hidden != NULL && its->start + task % chunks * CHUNK < its->stop)
            chunk_of(all, its, task % chunks, hidden);
    }
    free(hidden);
    return hidden == NULL;
}

/* Adds to y (tokens, out) each group's own product of x (tokens, in), which may be y itself; `a` is (columns, in), `b`
   (columns, out), `bias` (columns). Strides are in numbers. 0, or 1 where memory is short. */
int add_groups(bf16 *y, ptrdiff_t y_stride, const bf16 *x, ptrdiff_t x_stride, const bf16 *a, const bf16 *b, const bf16 *bias,
    ptrdiff_t in, ptrdiff_t out, const Group *groups, ptrdiff_t count, int activation, int threads)
{
    Products all = { y, x, a, b, bias, y_stride, x_stride, in, out, activation };
    int64_t columns = 0, longest = 0;
    int failed = 0;
    for (ptrdiff_t g = 0; g < count; g++) {
        columns = groups[g].last - groups[g].first > columns ? groups[g].last - groups[g].first : columns;
        longest = groups[g].stop - groups[g].start > longest ? groups[g].stop - groups[g].start : longest;
    }
    #pragma omp parallel num_threads(threads) if (threads > 1) reduction(| : failed)
    failed |= chunks_of_all(&all, groups, count, (longest + CHUNK - 1) / CHUNK, columns);
    return failed;
}

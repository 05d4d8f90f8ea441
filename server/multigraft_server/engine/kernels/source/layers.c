/* All decoder layers of a step whose adapters are low-rank products, or of none: one team of threads from the first
   to the last. Between products with frozen weights, which the threads share by outputs, each thread has its own
   tokens, so that an adapter's columns are read by one thread. */
#include "attention.h"
#include "linear.h"
#include "low_rank.h"
#include "pointwise.h"
#include <omp.h>
#include <sched.h>
#include <stdatomic.h>
#include <time.h>

/* One module's columns of all slots, A (columns, in) and B (columns, out); null where it has none. */
typedef struct {
    const bf16 *a, *b;
} Bank;

typedef struct {
    const bf16 *input_norm, *inner_norm;
    const bf16 *qkv, *qkv_bias, *o, *o_bias, *gate_up, *gate_up_bias, *down, *down_bias;
    Bank q_bank, k_bank, v_bank, o_bank, gate_bank, up_bank, down_bank;
    int64_t window;
    Layout layout;
} Layer;

typedef struct {
    int64_t hidden, inner;
    float epsilon, scaling;
} Sizes;

/* The rooms: x and its like (tokens, the widest of a layer), `low` (tokens, 3 * columns). */
typedef struct {
    int64_t tokens, groups, columns;
    const bf16 *cosine, *sine;
    const Cached *cached;
    const Group *group;
    bf16 *states, *x, *wide, *narrow;
    float *low;
    double *seconds; /* by part, added to as the first thread spends them; null: nobody asks */
} Step;

enum { LINEAR, DELTAS, ATTENTION, BETWEEN };

typedef struct {
    atomic_int arrived, turn;
} Meeting;

typedef struct {
    const Layer *layer;
    const Sizes *sizes;
    const Step *step;
    Meeting *meeting;
    int me, of;
    ptrdiff_t start, stop; /* this thread's tokens */
    double since;
} Work;

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

/* The time since the last call was spent on `part`. */
static void spent(Work *w, int part)
{
    if (!w->step->seconds || w->me)
        return;
    double then = w->since;
    w->since = now();
    w->step->seconds[part] += w->since - then;
}

enum { PATIENCE = 400 };

/* Wait for all threads: briefly awake, since they are about to come, then giving the core away. */
static void meet(const Work *w)
{
    if (w->of == 1)
        return;
    int turn = atomic_load_explicit(&w->meeting->turn, memory_order_acquire);
    if (atomic_fetch_add_explicit(&w->meeting->arrived, 1, memory_order_acq_rel) == w->of - 1) {
        atomic_store_explicit(&w->meeting->arrived, 0, memory_order_relaxed);
        atomic_store_explicit(&w->meeting->turn, turn + 1, memory_order_release);
        return;
    }
    for (int waited = 0; atomic_load_explicit(&w->meeting->turn, memory_order_acquire) == turn; waited++)
        if (waited < PATIENCE)
            _mm_pause();
        else
            sched_yield();
}

static void product(Work *w, const bf16 *x, const bf16 *packed, const bf16 *bias, bf16 *y, ptrdiff_t in,
    ptrdiff_t out)
{
    Product p = { x, packed, bias, y, in, out };
    meet(w);
    share(&p, w->step->tokens, w->me, w->of);
    meet(w);
    spent(w, LINEAR);
}

/* Rows start..stop of a group that are this thread's. */
static ptrdiff_t own_start(const Work *w, const Group *g) { return g->start > w->start ? g->start : w->start; }
static ptrdiff_t own_stop(const Work *w, const Group *g) { return g->stop < w->stop ? g->stop : w->stop; }

/* The `index`-th low-rank product that reads x (tokens, in): its first half. */
static void begin(Work *w, const Bank *bank, int index, const bf16 *x, ptrdiff_t in)
{
    const Step *s = w->step;
    if (!bank->a)
        return;
    for (const Group *g = s->group; g < s->group + s->groups; g++) {
        ptrdiff_t start = own_start(w, g), stop = own_stop(w, g);
        if (start < stop) {
            fetch(bank->a + g->first * in, (g->last - g->first) * in);
            first_product(x + start * in, in, bank->a + g->first * in, in,
                s->low + (start * 3 + index) * s->columns, 3 * s->columns, stop - start, g->last - g->first);
        }
    }
    spent(w, DELTAS);
}

/* Its second half, into y (tokens, out) at a stride. */
static void end(Work *w, const Bank *bank, int index, bf16 *y, ptrdiff_t stride, ptrdiff_t out)
{
    const Step *s = w->step;
    if (!bank->a)
        return;
    for (const Group *g = s->group; g < s->group + s->groups; g++) {
        ptrdiff_t start = own_start(w, g), stop = own_stop(w, g);
        if (start < stop) {
            fetch(bank->b + g->first * out, (g->last - g->first) * out);
            second_product(y + start * stride, stride, s->low + (start * 3 + index) * s->columns, 3 * s->columns,
                bank->b + g->first * out, out, stop - start, g->last - g->first);
        }
    }
    spent(w, DELTAS);
}

/* states += what a block gave; x = their norm. */
static void take_in(Work *w, const bf16 *given, const bf16 *weight)
{
    ptrdiff_t n = w->sizes->hidden;
    for (ptrdiff_t t = w->start; t < w->stop; t++) {
        if (given)
            add(w->step->states + t * n, given + t * n, n);
        if (weight)
            norm(w->step->states + t * n, weight, w->step->x + t * n, n, w->sizes->epsilon);
    }
    spent(w, BETWEEN);
}

static void attention(Work *w)
{
    const Layer *l = w->layer;
    const Step *s = w->step;
    const Layout *layout = &l->layout;
    ptrdiff_t n = w->sizes->hidden, query = layout->heads * layout->size, key = layout->kv_heads * layout->size;
    ptrdiff_t all = query + 2 * key;
    begin(w, &l->q_bank, 0, s->x, n);
    begin(w, &l->k_bank, 1, s->x, n);
    begin(w, &l->v_bank, 2, s->x, n);
    product(w, s->x, l->qkv, l->qkv_bias, s->wide, n, all);
    end(w, &l->q_bank, 0, s->wide, all, query);
    end(w, &l->k_bank, 1, s->wide + query, all, key);
    end(w, &l->v_bank, 2, s->wide + query + key, all, key);
    for (ptrdiff_t t = w->start; t < w->stop; t++) {
        bf16 *own = s->wide + t * all;
        settle(own, own + query, own + query + key, s->cosine + t * layout->size, s->sine + t * layout->size,
            s->cached + t, layout);
    }
    meet(w); /* a row's earlier tokens may be another thread's */
    for (ptrdiff_t t = w->start; t < w->stop; t++)
        attend(s->wide + t * all, s->narrow + t * query, s->cached + t, layout, l->window, w->sizes->scaling);
    spent(w, ATTENTION);
    begin(w, &l->o_bank, 0, s->narrow, query);
    product(w, s->narrow, l->o, l->o_bias, s->x, query, n);
    end(w, &l->o_bank, 0, s->x, n, n);
    take_in(w, s->x, l->inner_norm);
}

static void feedforward(Work *w, const bf16 *next_norm)
{
    const Layer *l = w->layer;
    const Step *s = w->step;
    ptrdiff_t n = w->sizes->hidden, inner = w->sizes->inner;
    begin(w, &l->gate_bank, 0, s->x, n);
    begin(w, &l->up_bank, 1, s->x, n);
    product(w, s->x, l->gate_up, l->gate_up_bias, s->wide, n, 2 * inner);
    end(w, &l->gate_bank, 0, s->wide, 2 * inner, inner);
    end(w, &l->up_bank, 1, s->wide + inner, 2 * inner, inner);
    for (ptrdiff_t t = w->start; t < w->stop; t++)
        gated(s->wide + t * 2 * inner, s->wide + t * 2 * inner + inner, s->narrow + t * inner, inner);
    spent(w, BETWEEN);
    begin(w, &l->down_bank, 0, s->narrow, inner);
    product(w, s->narrow, l->down, l->down_bias, s->x, inner, n);
    end(w, &l->down_bank, 0, s->x, n, n);
    take_in(w, s->x, next_norm);
}

/* The first of thread `me`'s tokens: an even share, moved to where an adapter's tokens begin if that is near. */
static ptrdiff_t boundary(const Step *s, int me, int of)
{
    ptrdiff_t even = s->tokens * me / of, near = s->tokens / of / 4, best = even, least = near + 1;
    if (me == 0 || me == of)
        return even;
    for (ptrdiff_t g = 0; g < s->groups; g++) {
        ptrdiff_t away = s->group[g].start > even ? s->group[g].start - even : even - s->group[g].start;
        if (away < least) {
            least = away;
            best = s->group[g].start;
        }
    }
    return best;
}

/* states (tokens, hidden), all layers in place. */
void decoder_layers(const Layer *layers, ptrdiff_t count, const Sizes *sizes, const Step *step, int threads)
{
    Meeting meeting = { 0, 0 };
    #pragma omp parallel num_threads(threads) if (threads > 1)
    {
        int me = omp_get_thread_num(), of = omp_get_num_threads();
        Work w = { layers, sizes, step, &meeting, me, of, boundary(step, me, of), boundary(step, me + 1, of), now() };
        take_in(&w, NULL, layers->input_norm);
        for (ptrdiff_t i = 0; i < count; i++) {
            w.layer = layers + i;
            attention(&w);
            feedforward(&w, i + 1 < count ? layers[i + 1].input_norm : NULL);
        }
    }
}

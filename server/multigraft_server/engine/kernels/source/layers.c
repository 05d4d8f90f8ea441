/* All decoder layers of a step: one team of threads from the first to the last. Between products with frozen weights,
   which the threads share by outputs, each thread has its own tokens, so that an adapter's columns are read by one
   thread. */
#include "attention.h"
#include "deltas.h"
#include "linear.h"
#include <omp.h>
#include <sched.h>
#include <stdatomic.h>
#include <time.h>

/* What all slots have at one module. `inputs` of modules that read the same x as others are not taken into account. */
typedef struct {
    Scales inputs, outputs;
    Columns low_rank, after[ACTIVATIONS];
} Module;

typedef struct {
    const bf16 *input_norm, *inner_norm;
    const bf16 *qkv, *qkv_bias, *o, *o_bias, *gate_up, *gate_up_bias, *down, *down_bias;
    Module at_q, at_k, at_v, at_o, at_gate, at_up, at_down; /* their deltas */
    Columns parallel[ACTIVATIONS]; /* from the feed-forward block's input to its output */
    int64_t window;
    Layout layout;
} Layer;

typedef struct {
    int64_t hidden, inner;
    float epsilon, scaling;
} Sizes;

/* The rooms: x and its like (tokens, the widest of a layer), `low` (tokens, 3 * columns), `beside` (tokens, across). */
typedef struct {
    int64_t tokens, columns, across;
    const bf16 *cosine, *sine;
    const Cached *cached;
    RowTable inputs, outputs;
    ColumnTable low_rank, after[ACTIVATIONS], parallel[ACTIVATIONS];
    bf16 *states, *x, *wide, *narrow;
    float *low, *beside;
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
    Span own;
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

/* Where the `index`-th of the modules that read one x keeps what lies between its products. */
static Room room(const Step *s, int index)
{
    return (Room){ s->low + index * s->columns, 3 * s->columns };
}

/* The `index`-th of the modules that read x (tokens, in): what adapters do there before the product. */
static void begin(Work *w, const Module *m, int index, const bf16 *x, ptrdiff_t in)
{
    const Step *s = w->step;
    first_half(&m->low_rank, &s->low_rank, PLAIN, x, in, in, room(s, index), w->own);
    spent(w, DELTAS);
}

/* What they do there after it, to y (tokens, out) at a stride. */
static void end(Work *w, const Module *m, int index, bf16 *y, ptrdiff_t stride, ptrdiff_t out)
{
    const Step *s = w->step;
    scale_own(&m->outputs, &s->outputs, y, stride, out, w->own);
    second_half(&m->low_rank, &s->low_rank, y, stride, out, room(s, index), w->own);
    for (int a = 0; a < ACTIVATIONS; a++) {
        first_half(&m->after[a], &s->after[a], a + 1, y, stride, out, room(s, index), w->own);
        second_half(&m->after[a], &s->after[a], y, stride, out, room(s, index), w->own);
    }
    spent(w, DELTAS);
}

/* A module that reads its x (tokens, in) alone. */
static void alone(Work *w, const Module *m, bf16 *x, const bf16 *packed, const bf16 *bias, bf16 *y, ptrdiff_t in, ptrdiff_t out)
{
    scale_own(&m->inputs, &w->step->inputs, x, in, in, w->own);
    begin(w, m, 0, x, in);
    product(w, x, packed, bias, y, in, out);
    end(w, m, 0, y, out, out);
}

/* The first half of what adapters do beside the feed-forward block, while its input is there, or the second. */
static void beside(Work *w, bf16 *values, int second)
{
    const Step *s = w->step;
    ptrdiff_t n = w->sizes->hidden;
    Room hidden = { s->beside, s->across };
    for (int a = 0; a < ACTIVATIONS; a++)
        if (second)
            second_half(&w->layer->parallel[a], &s->parallel[a], values, n, n, hidden, w->own);
        else
            first_half(&w->layer->parallel[a], &s->parallel[a], a + 1, values, n, n, hidden, w->own);
    spent(w, DELTAS);
}

/* states += what a block gave; x = their norm. */
static void take_in(Work *w, const bf16 *given, const bf16 *weight)
{
    ptrdiff_t n = w->sizes->hidden;
    for (ptrdiff_t t = w->own.start; t < w->own.stop; t++) {
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
    begin(w, &l->at_q, 0, s->x, n);
    begin(w, &l->at_k, 1, s->x, n);
    begin(w, &l->at_v, 2, s->x, n);
    product(w, s->x, l->qkv, l->qkv_bias, s->wide, n, all);
    end(w, &l->at_q, 0, s->wide, all, query);
    end(w, &l->at_k, 1, s->wide + query, all, key);
    end(w, &l->at_v, 2, s->wide + query + key, all, key);
    for (ptrdiff_t t = w->own.start; t < w->own.stop; t++) {
        bf16 *own = s->wide + t * all;
        settle(own, own + query, own + query + key, s->cosine + t * layout->size, s->sine + t * layout->size,
            s->cached + t, layout);
    }
    meet(w); /* a row's earlier tokens may be another thread's */
    for (ptrdiff_t t = w->own.start; t < w->own.stop; t++)
        attend(s->wide + t * all, s->narrow + t * query, s->cached + t, layout, l->window, w->sizes->scaling);
    spent(w, ATTENTION);
    alone(w, &l->at_o, s->narrow, l->o, l->o_bias, s->x, query, n);
    take_in(w, s->x, l->inner_norm);
}

static void feedforward(Work *w, const bf16 *next_norm)
{
    const Layer *l = w->layer;
    const Step *s = w->step;
    ptrdiff_t n = w->sizes->hidden, inner = w->sizes->inner;
    beside(w, s->x, 0);
    begin(w, &l->at_gate, 0, s->x, n);
    begin(w, &l->at_up, 1, s->x, n);
    product(w, s->x, l->gate_up, l->gate_up_bias, s->wide, n, 2 * inner);
    end(w, &l->at_gate, 0, s->wide, 2 * inner, inner);
    end(w, &l->at_up, 1, s->wide + inner, 2 * inner, inner);
    for (ptrdiff_t t = w->own.start; t < w->own.stop; t++)
        gated(s->wide + t * 2 * inner, s->wide + t * 2 * inner + inner, s->narrow + t * inner, inner);
    spent(w, BETWEEN);
    alone(w, &l->at_down, s->narrow, l->down, l->down_bias, s->x, inner, n);
    beside(w, s->x, 1);
    take_in(w, s->x, next_norm);
}

/* The first token of an adapter that is nearest to `even`, if less than `least` away, else `best`. */
static ptrdiff_t nearest(const ColumnTable *table, ptrdiff_t even, ptrdiff_t best, ptrdiff_t *least)
{
    for (const Group *g = table->groups; g < table->groups + table->count; g++) {
        ptrdiff_t away = g->start > even ? g->start - even : even - g->start;
        if (away < *least) {
            *least = away;
            best = g->start;
        }
    }
    return best;
}

/* The first of thread `me`'s tokens: an even share, moved to where an adapter's tokens begin if that is near. */
static ptrdiff_t boundary(const Step *s, int me, int of)
{
    ptrdiff_t even = s->tokens * me / of, least = s->tokens / of / 4 + 1, best = even;
    if (me == 0 || me == of)
        return even;
    best = nearest(&s->low_rank, even, best, &least);
    for (int a = 0; a < ACTIVATIONS; a++) {
        best = nearest(&s->after[a], even, best, &least);
        best = nearest(&s->parallel[a], even, best, &least);
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
        Span own = { boundary(step, me, of), boundary(step, me + 1, of) };
        Work w = { layers, sizes, step, &meeting, me, of, own, now() };
        take_in(&w, NULL, layers->input_norm);
        for (ptrdiff_t i = 0; i < count; i++) {
            w.layer = layers + i;
            attention(&w);
            feedforward(&w, i + 1 < count ? layers[i + 1].input_norm : NULL);
        }
    }
}

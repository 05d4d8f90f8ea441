/* What lies between a bottleneck's products. */
#ifndef MULTIGRAFT_ACTIVATIONS_H
#define MULTIGRAFT_ACTIVATIONS_H

#include "gelu.h"

enum { PLAIN = 0, RELU = 1, GELU = 2, SWISH = 3, ACTIVATIONS = 3 };

static inline __m512 activated(__m512 x, int activation)
{
    if (activation == RELU)
        return _mm512_max_ps(x, _mm512_setzero_ps());
    if (activation == SWISH)
        return _mm512_div_ps(x, _mm512_add_ps(_mm512_set1_ps(1.0f), exponential(_mm512_sub_ps(_mm512_setzero_ps(), x))));
    return activation == GELU ? gelu_of(x) : x;
}

#endif

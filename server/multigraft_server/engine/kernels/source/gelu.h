#ifndef MULTIGRAFT_GELU_H
#define MULTIGRAFT_GELU_H

#include "common.h"

/* x Phi(x). Between -4.2 and 4.2, Phi(x) = 1/2 + x P(2 x^2 / 4.2^2 - 1) with a polynomial that was fitted to an absolute error
   below 1.5e-6; beyond, Phi is 0 or 1, which is 1.4e-5 off at most. */
static inline __m512 gelu_of(__m512 x)
{
    const __m512 bound = _mm512_set1_ps(4.2f), zero = _mm512_setzero_ps();
    __m512 t = _mm512_fmsub_ps(_mm512_mul_ps(x, x), _mm512_set1_ps(0.113378685f), _mm512_set1_ps(1.0f));
    __m512 sum = _mm512_set1_ps(-8.944377187e-04f);
    sum = _mm512_fmadd_ps(sum, t, _mm512_set1_ps(2.559611108e-03f));
    sum = _mm512_fmadd_ps(sum, t, _mm512_set1_ps(-3.987181000e-03f));
    sum = _mm512_fmadd_ps(sum, t, _mm512_set1_ps(7.469756994e-03f));
    sum = _mm512_fmadd_ps(sum, t, _mm512_set1_ps(-1.491163671e-02f));
    sum = _mm512_fmadd_ps(sum, t, _mm512_set1_ps(2.534482814e-02f));
    sum = _mm512_fmadd_ps(sum, t, _mm512_set1_ps(-3.865013644e-02f));
    sum = _mm512_fmadd_ps(sum, t, _mm512_set1_ps(5.575785786e-02f));
    sum = _mm512_fmadd_ps(sum, t, _mm512_set1_ps(-8.150210977e-02f));
    sum = _mm512_fmadd_ps(sum, t, _mm512_set1_ps(1.678575575e-01f));
    __m512 near = _mm512_mul_ps(x, _mm512_fmadd_ps(sum, x, _mm512_set1_ps(0.5f)));
    __mmask16 beyond = _mm512_cmp_ps_mask(_mm512_abs_ps(x), bound, _CMP_GT_OQ);
    return _mm512_mask_max_ps(near, beyond, x, zero);
}

#endif

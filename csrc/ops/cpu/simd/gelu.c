/* The exact GELU, x·Φ(x). Φ(-u) = exp(-u²/2)·Q(u) for u >= 0 with Q(u) = erfcx(u/√2)/2; Q is a polynomial of t = 1/(1 +
 * u/4) without constant term, fitted on 0 <= u <= 13.5 to a relative error of 8e-9 (Lawson's iteration on Chebyshev
 * points against mpmath; beyond 13.5 the exponential is 0). So the negative tail keeps its relative accuracy, which (1
 * + erf)/2 would lose by cancellation, and the backward pass shares the exponential with φ. */
#include "ops/cpu/simd/act.h"
#include "ops/cpu/simd/simd.h"

#include <math.h>

/* Φ(x), and exp(-x²/2) through `bell`. */
NP_INLINE float cumulative(float x, float *bell) {
  float u = fabsf(x), t = 1.0f / (1.0f + 0.25f * u);
  float q = 1.6235661427e-02f;
  q = q * t - 6.0863952917e-02f;
  q = q * t + 4.6956948207e-02f;
  q = q * t + 3.4944385330e-02f;
  q = q * t + 7.0618553950e-03f;
  q = q * t + 8.9836797281e-02f;
  q = q * t + 7.0840992565e-02f;
  q = q * t + 9.5778720833e-02f;
  q = q * t + 9.9458833144e-02f;
  q = q * t + 9.9749762566e-02f;
  *bell = np_exp(-0.5f * x * x);
  float tail = *bell * (q * t);
  return x < 0.0f ? tail : 1.0f - tail;
}

NP_INLINE void forward(bool bf16, int64_t n, const void *x, void *y) {
#pragma omp simd
  for (int64_t i = 0; i < n; i++) {
    float value = np_act_load(bf16, x, i), bell;
    np_act_store(bf16, y, i, value * cumulative(value, &bell));
  }
}

void NP_SIMD(gelu_forward)(bool bf16, int64_t n, const void *x, void *y) {
  if (bf16) forward(true, n, x, y);
  else forward(false, n, x, y);
}

NP_INLINE void backward(bool bf16, int64_t n, const void *x, const void *dy, void *dx) {
#pragma omp simd
  for (int64_t i = 0; i < n; i++) {
    float value = np_act_load(bf16, x, i), bell;
    float slope = cumulative(value, &bell);
    slope += value * bell * 0.3989422804f; /* φ(x) = bell/√(2π) */
    np_act_store(bf16, dx, i, np_act_load(bf16, dy, i) * slope);
  }
}

void NP_SIMD(gelu_backward)(bool bf16, int64_t n, const void *x, const void *dy, void *dx) {
  if (bf16) backward(true, n, x, dy, dx);
  else backward(false, n, x, dy, dx);
}

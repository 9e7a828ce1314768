/* Sixteen numbers at a time, for kernels.c, mel.c and packed_int8.c: float32 in registers, bfloat16 in memory. */

#ifndef SONGSIGHT_LANES_H
#define SONGSIGHT_LANES_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define EXPORT __attribute__((visibility("default")))

enum { LANES = 16, AREA = 64, WIDEST = 64, WIDEST_ROW = 4096 };
typedef uint16_t bf16;

INLINE __m512 widen(const bf16 *at) {
    __m256i given = _mm256_loadu_si256((const __m256i *)at);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(given), 16));
}

INLINE void narrow(bf16 *at, __m512 x) {
    _mm256_storeu_si256((__m256i *)at, (__m256i)_mm512_cvtneps_pbh(x));
}

/* Two vectors of float32 as one of pairs of bfloat16, rounded to the nearest: what dpbf16 multiplies. */
INLINE __m512i pairs(__m512 first, __m512 second) {
    const __m512i half = _mm512_set1_epi32(0x8000);
    __m512i low = _mm512_srli_epi32(_mm512_add_epi32(_mm512_castps_si512(first), half), 16);
    __m512i high = _mm512_add_epi32(_mm512_castps_si512(second), half);
    return _mm512_mask_blend_epi16(0xaaaaaaaa, low, high);
}

/* 2^x to 3e-6 of it: x = n + f, and a polynomial of 2^f that was fitted to the least relative error on [-½, ½]. */
INLINE __m512 power_of_two(__m512 x) {
    __m512 n = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 f = _mm512_sub_ps(x, n);
    __m512 p = _mm512_set1_ps(0.009570101f);
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.05591786f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.24024744f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.6931218f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.9999993f));
    return _mm512_scalef_ps(p, n);
}

/* x Φ(x) to 2e-4: Φ is ½ and an odd polynomial, fitted on [-4, 4] so that it ends at 0 and 1. */
INLINE __m512 gelu_of(__m512 x) {
    __m512 inside = _mm512_max_ps(_mm512_min_ps(x, _mm512_set1_ps(4)), _mm512_set1_ps(-4));
    __m512 u = _mm512_mul_ps(inside, inside);
    __m512 p = _mm512_set1_ps(2.2588203307805088e-08f);
    p = _mm512_fmadd_ps(p, u, _mm512_set1_ps(-1.5888269899733132e-06f));
    p = _mm512_fmadd_ps(p, u, _mm512_set1_ps(4.776388232130557e-05f));
    p = _mm512_fmadd_ps(p, u, _mm512_set1_ps(-0.000812187441624701f));
    p = _mm512_fmadd_ps(p, u, _mm512_set1_ps(0.008763691410422325f));
    p = _mm512_fmadd_ps(p, u, _mm512_set1_ps(-0.06455441564321518f));
    p = _mm512_fmadd_ps(p, u, _mm512_set1_ps(0.397870272397995f));
    return _mm512_mul_ps(x, _mm512_fmadd_ps(inside, p, _mm512_set1_ps(0.5f)));
}

#endif

/* Log-mel features of clips (mel.py), sixteen frames at a time: each lane of a vector is a frame.
 *
 * A frame's 1024 samples are transformed as 512 complex numbers, even samples real and odd ones imaginary, in three
 * passes of eight (Cooley and Tukey 1965, decimation in frequency). The first reads the waves themselves; the second
 * and third stay in the first-level cache. The filters are read where they are not zero.
 *
 * Tensors are contiguous. kernels.py says what the function takes; nothing is checked here.
 */

#include "lanes.h"

enum { FFT = 1024, HALF = FFT / 2, EIGHTH = HALF / 8, BINS = HALF + 1 };
typedef struct { __m512 re, im; } complex16;
typedef struct { float re, im; } twiddle;

INLINE complex16 plus(complex16 a, complex16 b) {
    return (complex16){_mm512_add_ps(a.re, b.re), _mm512_add_ps(a.im, b.im)};
}

INLINE complex16 minus(complex16 a, complex16 b) {
    return (complex16){_mm512_sub_ps(a.re, b.re), _mm512_sub_ps(a.im, b.im)};
}

/* -i (a - b) */
INLINE complex16 minus_turned(complex16 a, complex16 b) {
    return (complex16){_mm512_sub_ps(a.im, b.im), _mm512_sub_ps(b.re, a.re)};
}

INLINE complex16 times(complex16 a, twiddle w) {
    const __m512 re = _mm512_set1_ps(w.re), im = _mm512_set1_ps(w.im);
    return (complex16){_mm512_fmsub_ps(a.re, re, _mm512_mul_ps(a.im, im)),
                       _mm512_fmadd_ps(a.re, im, _mm512_mul_ps(a.im, re))};
}

INLINE void dft4(complex16 a, complex16 b, complex16 c, complex16 d, complex16 *out, int stride) {
    complex16 ac = plus(a, c), a_c = minus(a, c), bd = plus(b, d), b_d = minus_turned(b, d);
    out[0] = plus(ac, bd);
    out[stride] = plus(a_c, b_d);
    out[2 * stride] = minus(ac, bd);
    out[3 * stride] = minus(a_c, b_d);
}

INLINE void dft8(complex16 x[8]) {
    const __m512 root = _mm512_set1_ps(0.70710678118654752f);
    complex16 y[8];
    for (int i = 0; i < 4; i++) y[i] = plus(x[i], x[i + 4]);
    y[4] = minus(x[0], x[4]);
    complex16 one = minus(x[1], x[5]), three = minus(x[3], x[7]);
    y[5].re = _mm512_mul_ps(root, _mm512_add_ps(one.im, one.re));
    y[5].im = _mm512_mul_ps(root, _mm512_sub_ps(one.im, one.re));
    y[6] = minus_turned(x[2], x[6]);
    y[7].re = _mm512_mul_ps(root, _mm512_sub_ps(three.im, three.re));
    y[7].im = _mm512_mul_ps(_mm512_sub_ps(_mm512_setzero_ps(), root), _mm512_add_ps(three.im, three.re));
    dft4(y[0], y[1], y[2], y[3], x, 2);
    dft4(y[4], y[5], y[6], y[7], x + 1, 2);
}

/* Rows of sixteen become columns. */
INLINE void transpose(__m512 x[LANES]) {
    __m512 y[LANES];
    for (int i = 0; i < LANES; i += 2) {
        y[i] = _mm512_unpacklo_ps(x[i], x[i + 1]);
        y[i + 1] = _mm512_unpackhi_ps(x[i], x[i + 1]);
    }
    for (int i = 0; i < LANES; i += 4)
        for (int j = 0; j < 2; j++) {
            __m512d low = _mm512_castps_pd(y[i + j]), high = _mm512_castps_pd(y[i + j + 2]);
            x[i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(low, high));
            x[i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low, high));
        }
    for (int i = 0; i < LANES; i += 8)
        for (int j = 0; j < 4; j++) {
            y[i + j] = _mm512_shuffle_f32x4(x[i + j], x[i + j + 4], 0x88);
            y[i + j + 4] = _mm512_shuffle_f32x4(x[i + j], x[i + j + 4], 0xdd);
        }
    for (int j = 0; j < 8; j++) {
        x[j] = _mm512_shuffle_f32x4(y[j], y[j + 8], 0x88);
        x[j + 8] = _mm512_shuffle_f32x4(y[j], y[j + 8], 0xdd);
    }
}

/* The transform of the frames as complex numbers. Number k is at (k % 8)·64 + (k / 8 % 8)·8 + k / 64. */
INLINE void transform(const float *const frames[LANES], const float *window, const twiddle *w, complex16 out[HALF]) {
    for (int k = 0; k < EIGHTH; k += 8) {
        __m512 x[8][LANES]; /* [eighth of the frame][two for each complex number] */
        for (int j = 0; j < 8; j++) {
            const int at = 2 * (k + EIGHTH * j);
            const __m512 weights = _mm512_loadu_ps(window + at);
            for (int l = 0; l < LANES; l++) x[j][l] = _mm512_mul_ps(_mm512_loadu_ps(frames[l] + at), weights);
            transpose(x[j]);
        }
        for (int i = 0; i < 8; i++) {
            complex16 z[8];
            for (int j = 0; j < 8; j++) z[j] = (complex16){x[j][2 * i], x[j][2 * i + 1]};
            dft8(z);
            out[k + i] = z[0];
            for (int q = 1; q < 8; q++) out[EIGHTH * q + k + i] = times(z[q], w[2 * q * (k + i)]);
        }
    }
    for (int block = 0; block < HALF; block += EIGHTH) {
        complex16 *y = out + block;
        for (int k = 0; k < 8; k++) {
            complex16 z[8];
            for (int j = 0; j < 8; j++) z[j] = y[k + 8 * j];
            dft8(z);
            y[k] = z[0];
            for (int q = 1; q < 8; q++) y[8 * q + k] = times(z[q], w[16 * q * k]);
        }
        for (int k = 0; k < EIGHTH; k += 8) dft8(y + k);
    }
}

INLINE int place(int k) {
    return (k & 7) * EIGHTH + (k >> 3 & 7) * 8 + (k >> 6);
}

/* Four times the power of a bin of the real transform, 0 < k < 512. */
INLINE __m512 power(const complex16 z[HALF], int k, twiddle w) {
    complex16 a = z[place(k)], b = z[place(HALF - k)];
    complex16 even = {_mm512_add_ps(a.re, b.re), _mm512_sub_ps(a.im, b.im)};
    complex16 odd = {_mm512_add_ps(a.im, b.im), _mm512_sub_ps(b.re, a.re)};
    complex16 sum = plus(even, times(odd, w));
    return _mm512_fmadd_ps(sum.re, sum.re, _mm512_mul_ps(sum.im, sum.im));
}

/* 10 log₁₀(x): x = 2^n m with m from ¾ to 1½, ln m = 2 artanh((m - 1) / (m + 1)). */
INLINE __m512 decibels(__m512 x) {
    const __m512 one = _mm512_set1_ps(1);
    __m512 m = _mm512_getmant_ps(x, _MM_MANT_NORM_p75_1p5, _MM_MANT_SIGN_src);
    __m512 n = _mm512_getexp_ps(_mm512_div_ps(x, m));
    __m512 s = _mm512_div_ps(_mm512_sub_ps(m, one), _mm512_add_ps(m, one)), u = _mm512_mul_ps(s, s);
    __m512 p = _mm512_set1_ps(1.f / 9);
    p = _mm512_fmadd_ps(p, u, _mm512_set1_ps(1.f / 7));
    p = _mm512_fmadd_ps(p, u, _mm512_set1_ps(1.f / 5));
    p = _mm512_fmadd_ps(p, u, _mm512_set1_ps(1.f / 3));
    p = _mm512_fmadd_ps(p, u, one);
    p = _mm512_mul_ps(p, _mm512_mul_ps(s, _mm512_set1_ps(8.685889638065036f)));
    return _mm512_fmadd_ps(n, _mm512_set1_ps(3.010299956639812f), p);
}

/* Where a frame begins; one that reaches beyond the wave's ends is made from its reflection, in `made`. */
INLINE const float *frame(const float *wave, long samples, long begin, float made[FFT]) {
    if (begin >= 0 && begin + FFT <= samples) return wave + begin;
    for (long i = 0; i < FFT; i++) {
        long at = begin + i < 0 ? -(begin + i) : begin + i;
        made[i] = wave[at < samples ? at : 2 * (samples - 1) - at];
    }
    return made;
}

EXPORT void log_mel(const float *waves, float *out, long clips, long samples, long hop, const float *window,
                    const twiddle *w, const float *weights, const int32_t *bands, long mels, float least) {
    complex16 z[HALF];
    float made[LANES][FFT];
    __m512 powers[BINS];
    const long count = samples / hop + 1;
    const __m512 floor = _mm512_set1_ps(least), quarter = _mm512_set1_ps(0.25f);
    int lowest = BINS, highest = 0;
    for (long m = 0; m < mels; m++) {
        if (bands[2 * m] < lowest) lowest = bands[2 * m];
        if (bands[2 * m + 1] > highest) highest = bands[2 * m + 1];
    }
    for (long clip = 0; clip < clips; clip++)
        for (long first = 0; first < count; first += LANES) {
            const long here = count - first < LANES ? count - first : LANES;
            const float *frames[LANES];
            for (long l = 0; l < LANES; l++) {
                const long number = first + (l < here ? l : 0);
                frames[l] = frame(waves + clip * samples, samples, number * hop - HALF, made[l]);
            }
            transform(frames, window, w, z);
            for (int k = lowest; k < highest; k++) {
                if (k % HALF == 0) {
                    __m512 sum = k ? _mm512_sub_ps(z[0].re, z[0].im) : _mm512_add_ps(z[0].re, z[0].im);
                    powers[k] = _mm512_mul_ps(sum, sum);
                } else
                    powers[k] = _mm512_mul_ps(quarter, power(z, k, w[k]));
            }
            const float *weight = weights;
            for (long m = 0; m < mels; m += LANES) {
                __m512 rows[LANES];
                for (int i = 0; i < LANES; i++) {
                    __m512 sum = _mm512_setzero_ps();
                    for (int k = bands[2 * (m + i)]; k < bands[2 * (m + i) + 1]; k++)
                        sum = _mm512_fmadd_ps(_mm512_set1_ps(*weight++), powers[k], sum);
                    /* Of a sum that is not a number the second operand is given: it stays none. */
                    rows[i] = decibels(_mm512_max_ps(floor, sum));
                }
                transpose(rows);
                for (long l = 0; l < here; l++)
                    _mm512_storeu_ps(out + ((clip * count + first + l) * mels + m), rows[l]);
            }
        }
}

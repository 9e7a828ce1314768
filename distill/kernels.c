/* What stands between the products of a packed tower (packed.py), for x86 CPUs that multiply bfloat16 (AVX512-BF16).
 *
 * A window's attention is worked on in registers and the first-level cache, where PyTorch's operators write queries,
 * keys, values, logits and weights to memory one after the other. Sums, softmax and norms are in float32.
 *
 * Tensors are contiguous. kernels.py says what each function takes; nothing is checked here.
 */

#include "lanes.h"

enum { PARTS = AREA / LANES };

/* One head of one window; a lane is a query. */
INLINE void attend_head(const bf16 *qkv, bf16 *out, const float *bias, long heads, long width, float scale) {
    uint32_t q[WIDEST / 2][AREA] __attribute__((aligned(64)));  /* pairs along the width, transposed; then the result */
    uint32_t v[AREA / 2][WIDEST] __attribute__((aligned(64)));  /* pairs of neighbouring keys */
    float logits[AREA][AREA] __attribute__((aligned(64)));      /* [key][query] */
    uint32_t weights[AREA / 2][AREA] __attribute__((aligned(64)));
    const long row = 3 * heads * width, out_row = heads * width;
    const bf16 *key = qkv + heads * width, *value = key + heads * width;

    for (long i = 0; i < AREA; i++)
        for (long d = 0; d < width / 2; d++) memcpy(&q[d][i], qkv + i * row + 2 * d, 4);
    for (long j = 0; j < AREA / 2; j++)
        for (long d = 0; d < width; d++)
            v[j][d] = value[2 * j * row + d] | (uint32_t)value[(2 * j + 1) * row + d] << 16;

    __m512 most[PARTS], sum[PARTS];
    for (int l = 0; l < PARTS; l++) most[l] = _mm512_set1_ps(-3e38f), sum[l] = _mm512_setzero_ps();
    const __m512 scales = _mm512_set1_ps(scale);
    for (long j = 0; j < AREA; j += 4) {
        __m512 acc[4][PARTS];
        for (int a = 0; a < 4; a++)
            for (int l = 0; l < PARTS; l++) acc[a][l] = _mm512_setzero_ps();
        for (long d = 0; d < width / 2; d++) {
            __m512i query[PARTS];
            for (int l = 0; l < PARTS; l++) query[l] = _mm512_load_si512(&q[d][l * LANES]);
            for (int a = 0; a < 4; a++) {
                int32_t pair;
                memcpy(&pair, key + (j + a) * row + 2 * d, 4);
                for (int l = 0; l < PARTS; l++)
                    acc[a][l] = _mm512_dpbf16_ps(acc[a][l], (__m512bh)query[l], (__m512bh)_mm512_set1_epi32(pair));
            }
        }
        for (int a = 0; a < 4; a++)
            for (int l = 0; l < PARTS; l++) {
                __m512 logit = _mm512_fmadd_ps(acc[a][l], scales, _mm512_loadu_ps(bias + (j + a) * AREA + l * LANES));
                most[l] = _mm512_max_ps(most[l], logit);
                _mm512_store_ps(&logits[j + a][l * LANES], logit);
            }
    }
    for (long j = 0; j < AREA; j += 2)
        for (int l = 0; l < PARTS; l++) {
            __m512 first = power_of_two(_mm512_sub_ps(_mm512_load_ps(&logits[j][l * LANES]), most[l]));
            __m512 second = power_of_two(_mm512_sub_ps(_mm512_load_ps(&logits[j + 1][l * LANES]), most[l]));
            sum[l] = _mm512_add_ps(sum[l], _mm512_add_ps(first, second));
            _mm512_store_si512(&weights[j / 2][l * LANES], pairs(first, second));
        }
    for (int l = 0; l < PARTS; l++) sum[l] = _mm512_div_ps(_mm512_set1_ps(1), sum[l]);
    for (long d = 0; d < width; d += 4) {
        __m512 acc[4][PARTS];
        for (int a = 0; a < 4; a++)
            for (int l = 0; l < PARTS; l++) acc[a][l] = _mm512_setzero_ps();
        for (long j = 0; j < AREA / 2; j++) {
            __m512i weight[PARTS];
            for (int l = 0; l < PARTS; l++) weight[l] = _mm512_load_si512(&weights[j][l * LANES]);
            for (int a = 0; a < 4; a++)
                for (int l = 0; l < PARTS; l++)
                    acc[a][l] = _mm512_dpbf16_ps(acc[a][l], (__m512bh)weight[l], (__m512bh)_mm512_set1_epi32(v[j][d + a]));
        }
        for (int a = 0; a < 4; a += 2)
            for (int l = 0; l < PARTS; l++)
                _mm512_store_si512(&q[(d + a) / 2][l * LANES],
                                   pairs(_mm512_mul_ps(acc[a][l], sum[l]), _mm512_mul_ps(acc[a + 1][l], sum[l])));
    }
    for (long i = 0; i < AREA; i++)
        for (long d = 0; d < width / 2; d++) memcpy(out + i * out_row + 2 * d, &q[d][i], 4);
}

EXPORT void attend(const bf16 *qkv, bf16 *out, const float *bias, const int32_t *kinds, long windows, long heads,
                   long width, float scale) {
    for (long w = 0; w < windows; w++)
        for (long h = 0; h < heads; h++) {
            const bf16 *given = qkv + w * AREA * 3 * heads * width + h * width;
            bf16 *to = out + w * AREA * heads * width + h * width;
            const float *added = bias + (kinds[w] * heads + h) * AREA * AREA;
            /* The width of every published tower, known to the compiler. */
            if (width == 24) attend_head(given, to, added, heads, 24, scale);
            else attend_head(given, to, added, heads, width, scale);
        }
}

EXPORT void norm(const bf16 *x, const float *weight, const float *bias, bf16 *out, long rows, long width, float eps) {
    float row[WIDEST_ROW] __attribute__((aligned(64)));
    for (long r = 0; r < rows; r++, x += width, out += width) {
        __m512 sum = _mm512_setzero_ps(), squares = _mm512_setzero_ps();
        for (long c = 0; c < width; c += LANES) {
            __m512 part = widen(x + c);
            _mm512_store_ps(row + c, part);
            sum = _mm512_add_ps(sum, part);
        }
        __m512 mean = _mm512_set1_ps(_mm512_reduce_add_ps(sum) / width);
        for (long c = 0; c < width; c += LANES) {
            __m512 part = _mm512_sub_ps(_mm512_load_ps(row + c), mean);
            _mm512_store_ps(row + c, part);
            squares = _mm512_fmadd_ps(part, part, squares);
        }
        float deviation = __builtin_sqrtf(_mm512_reduce_add_ps(squares) / width + eps);
        __m512 factor = _mm512_set1_ps(1 / deviation);
        for (long c = 0; c < width; c += LANES) {
            __m512 part = _mm512_mul_ps(_mm512_load_ps(row + c), factor);
            narrow(out + c, _mm512_fmadd_ps(part, _mm512_loadu_ps(weight + c), _mm512_loadu_ps(bias + c)));
        }
    }
}

EXPORT void gelu(bf16 *x, long count) {
    for (long n = 0; n < count; n += LANES) narrow(x + n, gelu_of(widen(x + n)));
}

/* To 8 bits, x ≈ scale · (q - zero): from the least to the greatest, 0 among them. */
EXPORT void quantise(const bf16 *x, uint8_t *out, long count, float *scale, int64_t *zero) {
    __m512 least = _mm512_setzero_ps(), most = _mm512_setzero_ps();
    for (long n = 0; n < count; n += LANES) {
        __m512 part = widen(x + n);
        least = _mm512_min_ps(least, part);
        most = _mm512_max_ps(most, part);
    }
    float low = _mm512_reduce_min_ps(least), high = _mm512_reduce_max_ps(most);
    *scale = high > low ? (high - low) / 255 : 1;
    *zero = (int64_t)(0.5f - low / *scale);
    const __m512 factor = _mm512_set1_ps(1 / *scale), origin = _mm512_set1_ps(*zero);
    for (long n = 0; n < count; n += LANES) {
        __m512i q = _mm512_cvtps_epi32(_mm512_fmadd_ps(widen(x + n), factor, origin));
        q = _mm512_max_epi32(q, _mm512_setzero_si512());
        _mm_storeu_si128((__m128i *)(out + n), _mm512_cvtusepi32_epi8(q));
    }
}

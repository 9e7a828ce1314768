/* A Swin block in 8 bits, window by window, for x86 CPUs that multiply bytes and bfloat16 (AVX512-VNNI, AVX512-BF16).
 *
 * A window's tokens go through the whole block before the next one's, so that what a step writes is in a core's cache
 * for the next. Each row of what flows into a product is brought to 8 bits by its own range, x ≈ scale · (q - zero), and
 * each row of the weights by its own. Sums are exact; norms, softmax, GELU and sums with what came in are in float32.
 *
 * packed_int8.py says what the functions take; nothing is checked here.
 */

#include "lanes.h"

enum { ROWS = 8, VECTORS = 3, PANEL = VECTORS * LANES, GROUP = 16 };

#define UNROLL _Pragma("GCC unroll 8")

/* GCC 12 writes the sums of its own intrinsic to memory after each product, which halves the speed. */
#define MULTIPLY_ADD(sum, bytes, weights) __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(bytes), "v"(weights))

typedef struct {
    const int8_t *panels; /* [panels, depth / 4, 48, 4]: four bytes of each of 48 rows of the weights; 0 beyond width */
    const float *scale;   /* [columns of all panels] */
    const float *sum;     /* of a row of the weights, in bytes */
    const float *bias;
    long depth, width;
} Linear;

typedef struct {
    const float *weight, *bias;
    float eps;
} Norm;

typedef struct {
    Norm before, after;
    Linear qkv, out, widen, narrow;
    const float *position; /* see attend */
    const int32_t *kinds;
    long heads, windows; /* of a clip */
    float logit_scale;
} Block;

void attend(const bf16 *qkv, bf16 *out, const float *bias, const int32_t *kinds, long windows, long heads, long width,
            float scale);

/* Rows in 8 bits: [rows, depth], with a scale and a zero each. */
typedef struct {
    uint8_t *q;
    float *scale, *zero;
} Bytes;

INLINE void to_bytes(const float *row, long width, Bytes to, long r) {
    __m512 least = _mm512_setzero_ps(), most = _mm512_setzero_ps();
    for (long c = 0; c < width; c += LANES) {
        __m512 part = _mm512_loadu_ps(row + c);
        least = _mm512_min_ps(least, part);
        most = _mm512_max_ps(most, part);
    }
    float low = _mm512_reduce_min_ps(least), high = _mm512_reduce_max_ps(most);
    float scale = high > low ? (high - low) / 255 : 1;
    float zero = (float)(int)(0.5f - low / scale);
    const __m512 factor = _mm512_set1_ps(1 / scale), origin = _mm512_set1_ps(zero);
    for (long c = 0; c < width; c += LANES) {
        __m512i q = _mm512_cvtps_epi32(_mm512_fmadd_ps(_mm512_loadu_ps(row + c), factor, origin));
        q = _mm512_max_epi32(q, _mm512_setzero_si512());
        _mm_storeu_si128((__m128i *)(to.q + r * width + c), _mm512_cvtusepi32_epi8(q));
    }
    to.scale[r] = scale;
    to.zero[r] = zero;
}

/* Layer norm of `count` pieces of `width` numbers that lie apart, as one row, in 8 bits. */
INLINE void norm_to_bytes(const bf16 *const *pieces, long count, long width, const Norm *norm, Bytes to, long r) {
    float row[WIDEST_ROW] __attribute__((aligned(64)));
    const long whole = count * width;
    __m512 sum = _mm512_setzero_ps(), squares = _mm512_setzero_ps();
    for (long p = 0; p < count; p++)
        for (long c = 0; c < width; c += LANES) {
            __m512 part = widen(pieces[p] + c);
            _mm512_store_ps(row + p * width + c, part);
            sum = _mm512_add_ps(sum, part);
        }
    const __m512 mean = _mm512_set1_ps(_mm512_reduce_add_ps(sum) / whole);
    for (long c = 0; c < whole; c += LANES) {
        __m512 part = _mm512_sub_ps(_mm512_load_ps(row + c), mean);
        squares = _mm512_fmadd_ps(part, part, squares);
    }
    const __m512 factor = _mm512_set1_ps(1 / __builtin_sqrtf(_mm512_reduce_add_ps(squares) / whole + norm->eps));
    for (long c = 0; c < whole; c += LANES) {
        __m512 part = _mm512_mul_ps(_mm512_sub_ps(_mm512_load_ps(row + c), mean), factor);
        part = _mm512_fmadd_ps(part, _mm512_loadu_ps(norm->weight + c), _mm512_loadu_ps(norm->bias + c));
        _mm512_store_ps(row + c, part);
    }
    to_bytes(row, whole, to, r);
}

enum What { WRITE, ADD, GELU };

/* Rows (eights of them) times weights, plus bias: WRITE it to bfloat16 `out`, ADD `added` to it first, or write GELU of
 * it to float32 `wide`. */
INLINE void product(const Linear *linear, Bytes rows, long count, enum What what, bf16 *out, const bf16 *added,
                    float *wide) {
    const long depth = linear->depth, width = linear->width;
    for (long c = 0; c < width; c += PANEL)
        for (long r = 0; r < count; r += ROWS) {
            const int8_t *weights = linear->panels + c * depth;
            const uint8_t *row[ROWS];
            __m512i sums[ROWS][VECTORS];
            UNROLL for (int i = 0; i < ROWS; i++) {
                row[i] = rows.q + (r + i) * depth;
                UNROLL for (int v = 0; v < VECTORS; v++) sums[i][v] = _mm512_setzero_si512();
            }
            for (long k = 0; k < depth; k += 4, weights += 4 * PANEL) {
                __m512i first = _mm512_loadu_si512(weights), second = _mm512_loadu_si512(weights + 64);
                __m512i third = _mm512_loadu_si512(weights + 128);
                UNROLL for (int i = 0; i < ROWS; i++) {
                    int32_t four;
                    memcpy(&four, row[i] + k, 4);
                    __m512i bytes = _mm512_set1_epi32(four);
                    MULTIPLY_ADD(sums[i][0], bytes, first);
                    MULTIPLY_ADD(sums[i][1], bytes, second);
                    MULTIPLY_ADD(sums[i][2], bytes, third);
                }
            }
            UNROLL for (int v = 0; v < VECTORS; v++) {
                const long at = c + v * LANES;
                if (at >= width) break;
                __m512 scale = _mm512_loadu_ps(linear->scale + at), bias = _mm512_loadu_ps(linear->bias + at);
                __m512 sum = _mm512_loadu_ps(linear->sum + at);
                UNROLL for (int i = 0; i < ROWS; i++) {
                    __m512 zero = _mm512_set1_ps(rows.zero[r + i]);
                    __m512 y = _mm512_fnmadd_ps(zero, sum, _mm512_cvtepi32_ps(sums[i][v]));
                    y = _mm512_fmadd_ps(_mm512_mul_ps(y, scale), _mm512_set1_ps(rows.scale[r + i]), bias);
                    const long to = (r + i) * width + at;
                    if (what == GELU) _mm512_storeu_ps(wide + to, gelu_of(y));
                    else narrow(out + to, what == ADD ? _mm512_add_ps(y, widen(added + to)) : y);
                }
            }
        }
}

INLINE void *take(char **scratch, long bytes) {
    char *taken = *scratch;
    *scratch += (bytes + 63) & ~63L;
    return taken;
}

static void through(const Block *block, const bf16 *const *tokens, const int32_t *kind, bf16 *out, char *scratch) {
    const long width = block->out.width, hidden = block->widen.width;
    bf16 *x = take(&scratch, AREA * width * sizeof *x), *attended = take(&scratch, AREA * width * sizeof *x);
    bf16 *qkv = take(&scratch, AREA * 3 * width * sizeof *x);
    float *wide = take(&scratch, GROUP * hidden * sizeof *wide);
    Bytes rows = {take(&scratch, AREA * width), take(&scratch, AREA * 4), take(&scratch, AREA * 4)};
    Bytes wide_rows = {take(&scratch, GROUP * hidden), take(&scratch, GROUP * 4), take(&scratch, GROUP * 4)};

    for (long t = 0; t < AREA; t++) {
        memcpy(x + t * width, tokens[t], width * sizeof *x);
        norm_to_bytes(tokens + t, 1, width, &block->before, rows, t);
    }
    product(&block->qkv, rows, AREA, WRITE, qkv, 0, 0);
    attend(qkv, attended, block->position, kind, 1, block->heads, width / block->heads, block->logit_scale);
    for (long t = 0; t < AREA; t++) {
        float row[WIDEST_ROW] __attribute__((aligned(64)));
        for (long c = 0; c < width; c += LANES) _mm512_store_ps(row + c, widen(attended + t * width + c));
        to_bytes(row, width, rows, t);
    }
    product(&block->out, rows, AREA, ADD, x, x, 0);
    for (long t = 0; t < AREA; t += GROUP) {
        const bf16 *group = x + t * width;
        for (long i = 0; i < GROUP; i++) {
            const bf16 *piece = group + i * width;
            norm_to_bytes(&piece, 1, width, &block->after, rows, i);
        }
        product(&block->widen, rows, GROUP, GELU, 0, 0, wide);
        for (long i = 0; i < GROUP; i++) to_bytes(wide + i * hidden, hidden, wide_rows, i);
        product(&block->narrow, wide_rows, GROUP, ADD, out + t * width, group, 0);
    }
}

/* Bytes that block8 wants for a window. */
EXPORT long block8_scratch(const Block *block) {
    const long width = block->out.width, hidden = block->widen.width;
    return AREA * width * 11 + GROUP * hidden * 5 + (AREA + GROUP) * 8 + 16 * 64;
}

EXPORT void block8(const Block *block, const bf16 *x, const int64_t *order, long clips, bf16 *out, char *scratch) {
    const long width = block->out.width, clip = block->windows * AREA;
    for (long n = 0; n < clips; n++, x += clip * width)
        for (long w = 0; w < block->windows; w++, out += AREA * width) {
            const bf16 *tokens[AREA];
            for (long t = 0; t < AREA; t++) tokens[t] = x + (order ? order[w * AREA + t] : w * AREA + t) * width;
            through(block, tokens, block->kinds + w, out, scratch);
        }
}

/* Four tokens that become one: their norm as one row, and a product. */
EXPORT void merge8(const Norm *norm, const Linear *linear, const bf16 *x, const int64_t *order, long clips, long tokens,
                   bf16 *out) {
    const long width = linear->depth / 4;
    uint8_t q[ROWS * WIDEST_ROW];
    float scale[ROWS], zero[ROWS];
    Bytes rows = {q, scale, zero};
    for (long n = 0; n < clips; n++, x += tokens * width)
        for (long r = 0; r < tokens / 4; r += ROWS) { /* clips are whole windows at each stage: of 64 tokens */
            for (long i = 0; i < ROWS; i++) {
                const bf16 *pieces[4];
                for (long p = 0; p < 4; p++) {
                    const long at = 4 * (r + i) + p;
                    pieces[p] = x + (order ? order[at] : at) * width;
                }
                norm_to_bytes(pieces, 4, width, norm, rows, i);
            }
            product(linear, rows, ROWS, WRITE, out, 0, 0);
            out += ROWS * linear->width;
        }
}

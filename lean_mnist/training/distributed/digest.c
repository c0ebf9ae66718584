/* Digests of gradients in float32, each read once: see message.py. */
#include <stdint.h>
#include <string.h>

enum { LANES = 8, BLOCK = 4096 };
typedef float floats __attribute__((vector_size(LANES * sizeof(float)), aligned(4), may_alias));
typedef double doubles __attribute__((vector_size(LANES * sizeof(double)), aligned(8), may_alias));
typedef int32_t words __attribute__((vector_size(LANES * sizeof(int32_t)), aligned(4), may_alias));
typedef int64_t wide_words __attribute__((vector_size(LANES * sizeof(int64_t)), aligned(8), may_alias));
typedef struct {
    double values[3];
    int64_t bits;
} Digest;

/* The numbers: the sum of vectors, each times its weight, or without weights the only one; `out` gets them, if any. */
typedef struct {
    const float *const *vectors, *weights;
    float *out;
} Numbers;

#define NUMBER(type, i)                                                                                                \
    type x = *(const type *)(of->vectors[0] + i);                                                                      \
    if (of->weights) x *= of->weights[0];                                                                              \
    for (int64_t r = 1; r < count; r++) x += of->weights[r] * *(const type *)(of->vectors[r] + i);                     \
    if (of->out) *(type *)(of->out + i) = x;

static inline doubles load(const double *p) { return *(const doubles *)p; }

static inline __attribute__((always_inline)) void digest_block(const Numbers *of, int64_t count, int64_t begin, int64_t end,
                                                               const double *u, const double *v, Digest *digest) {
    doubles sums[2][3] = {0};
    wide_words bits = {0};
    int64_t i = begin;
    for (; i + 2 * LANES <= end;)
        for (int chain = 0; chain < 2; chain++, i += LANES, u += LANES, v += LANES) {
            NUMBER(floats, i)
            doubles exact = __builtin_convertvector(x, doubles);
            bits += __builtin_convertvector((words)x, wide_words);
            sums[chain][0] += load(u) * exact;
            sums[chain][1] += load(v) * exact;
            sums[chain][2] += exact * exact;
        }
    for (; i < end; i++, u++, v++) {
        NUMBER(float, i)
        int32_t word;
        memcpy(&word, &x, sizeof word);
        digest->bits += word;
        digest->values[0] += *u * x;
        digest->values[1] += *v * x;
        digest->values[2] += (double)x * x;
    }
    for (int lane = 0; lane < LANES; lane++) {
        for (int k = 0; k < 3; k++) digest->values[k] += sums[0][k][lane] + sums[1][k][lane];
        digest->bits += bits[lane];
    }
}

/* For each `chunk` of n numbers x adds <u, x>, <v, x>, <x, x> and the sum of their words to a digest. */
void digest(int64_t n, int64_t chunk, int64_t count, const float *const *vectors, const float *weights, float *out,
            const double *u, const double *v, Digest *digests) {
    Numbers of = {vectors, weights, out};
    for (int64_t begin = 0, end; begin < n; begin = end) {
        int64_t place = begin % chunk, length = chunk - place < BLOCK ? chunk - place : BLOCK;
        Digest *to = digests + begin / chunk;
        end = begin + length < n ? begin + length : n;
        switch (count) { /* a constant of the loops */
            case 1: digest_block(&of, 1, begin, end, u + place, v + place, to); break;
            case 2: digest_block(&of, 2, begin, end, u + place, v + place, to); break;
            default: digest_block(&of, count, begin, end, u + place, v + place, to);
        }
    }
}

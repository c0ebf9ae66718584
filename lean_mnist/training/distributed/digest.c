/* Digests of a gradient in float32, read once: see message.py. */
#include <stdint.h>
#include <string.h>

enum { LANES = 8, BLOCK = 4096 };
typedef float floats __attribute__((vector_size(LANES * sizeof(float)), aligned(4), may_alias));
typedef double doubles __attribute__((vector_size(LANES * sizeof(double)), aligned(8), may_alias));
typedef int32_t word __attribute__((may_alias));
typedef struct {
    double values[3];
    int64_t bits;
} Digest;

static inline doubles exact(const float *p) { return __builtin_convertvector(*(const floats *)p, doubles); }
static inline doubles load(const double *p) { return *(const doubles *)p; }

static void digest_block(int64_t n, const float *g, const double *u, const double *v, Digest *digest) {
    doubles sums[2][3] = {0};
    double values[3] = {0};
    int64_t i = 0, bits = 0;
    for (int64_t k = 0; k < n; k++) bits += ((const word *)g)[k];
    for (; i + 2 * LANES <= n;)
        for (int chain = 0; chain < 2; chain++, i += LANES) {
            doubles x = exact(g + i);
            sums[chain][0] += load(u + i) * x;
            sums[chain][1] += load(v + i) * x;
            sums[chain][2] += x * x;
        }
    for (; i < n; i++) {
        double x = g[i];
        values[0] += u[i] * x;
        values[1] += v[i] * x;
        values[2] += x * x;
    }
    for (int k = 0; k < 3; k++) {
        for (int lane = 0; lane < LANES; lane++) values[k] += sums[0][k][lane] + sums[1][k][lane];
        digest->values[k] += values[k];
    }
    digest->bits += bits;
}

/* For each `chunk` of the n numbers of g adds <u, g>, <v, g>, <g, g> and the sum of its words to a digest; copies g to
   copy, unless that is NULL, on the way. */
void digest(int64_t n, int64_t chunk, const float *g, float *copy, const double *u, const double *v, Digest *digests) {
    for (int64_t start = 0, end; start < n; start = end) {
        int64_t place = start % chunk, length = chunk - place < BLOCK ? chunk - place : BLOCK;
        end = start + length < n ? start + length : n;
        digest_block(end - start, g + start, u + place, v + place, digests + start / chunk);
        if (copy) memcpy(copy + start, g + start, (end - start) * sizeof(float));
    }
}

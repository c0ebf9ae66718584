/* Digests of a gradient in float32, read once: see message.py. */
#include <stdint.h>
#include <string.h>

enum { LANES = 8, BLOCK = 4096 };
typedef float floats __attribute__((vector_size(LANES * sizeof(float)), aligned(4), may_alias));
typedef double doubles __attribute__((vector_size(LANES * sizeof(double)), aligned(8), may_alias));

static inline doubles exact(const float *p) { return __builtin_convertvector(*(const floats *)p, doubles); }
static inline doubles load(const double *p) { return *(const doubles *)p; }

/* Adds <u, g>, <v, g> and <g, g>, in float64, to digest; copies g to copy, unless that is NULL, on the way. */
void digest_chunk(int64_t n, const float *g, float *copy, const double *u, const double *v, double *digest) {
    doubles sums[2][3] = {0};
    int64_t i = 0;
    for (int64_t end; (end = n - i < BLOCK ? n - i : BLOCK) >= 2 * LANES;) {
        if (copy) memcpy(copy + i, g + i, end * sizeof(float));
        for (end += i; i + 2 * LANES <= end;)
            for (int chain = 0; chain < 2; chain++, i += LANES) {
                doubles x = exact(g + i);
                sums[chain][0] += load(u + i) * x;
                sums[chain][1] += load(v + i) * x;
                sums[chain][2] += x * x;
            }
    }
    for (; i < n; i++) {
        double x = g[i];
        if (copy) copy[i] = g[i];
        digest[0] += u[i] * x;
        digest[1] += v[i] * x;
        digest[2] += x * x;
    }
    for (int k = 0; k < 3; k++)
        for (int lane = 0; lane < LANES; lane++) digest[k] += sums[0][k][lane] + sums[1][k][lane];
}

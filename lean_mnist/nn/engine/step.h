/* A network, its tape, its examples and its update: what kernels.c computes, and what screen.c looks at. */
#ifndef LEAN_MNIST_STEP_H
#define LEAN_MNIST_STEP_H

#include <math.h>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

#include "team.h"

enum { BLOCK = 4096 }; /* numbers of a vector that are summed together */
enum { SUMMED_ROWS = 64, SCRATCH = 67 };
/* Terms of a sum that are added up by themselves: its rounding grows with their number, and they stay in the cache. */
enum { TERMS = 128 };
enum { TILE_ROWS = 6, SPARSE_ROWS = 4 }; /* of a tile of a product */
enum { RELU, LEAKY_RELU, SIGMOID, TANH, GELU, SILU, IDENTITY };

typedef struct {
    int64_t inputs, units;
    float *weight, *bias;      /* (D, H) and (H), or NULL */
    float *d_weight, *d_bias;
    float *h, *z, *d_z, *d_h;  /* the tape: input (B, D), pre-activation (B, H), and the gradients of both */
} Layer;

typedef struct {
    int64_t depth, activation, examples;
    Layer *layers;
    int64_t *labels;
    float *loss;  /* (B) */
    float leaky_slope, label_smoothing, logit_penalty;
    float background;    /* what most inputs are, if anything: products leave it out where a whole tile has it */
    uint64_t *marks;     /* (D / 64, B) of the first layer: a bit for each input that is not the background */
    float *weight_sums;  /* of each block of SUMMED_ROWS rows of the first weight: its columns' sums */
    float *scratch;      /* of each thread: SCRATCH times `longest` */
    int64_t longest;     /* of all sizes and the most examples, and 16 */
} Network;

typedef struct {
    const uint8_t *images;  /* (m, D) */
    const int64_t *labels, *order;
    int64_t count;                  /* m */
    int64_t batch_size, remaining;  /* examples of the order from here on */
    float mean, scale, clip;        /* clip: infinite where there is none */
    const int64_t *noted;           /* the order as it was drawn, or NULL: batches are not compared with anything */
    const int64_t *image_sums;      /* of each example, its label among them; see lean_mnist.data.watch */
    uint64_t label_factor;
    uint32_t *feature_sums;         /* of each row of the batch, left when it is made */
} Source;

typedef struct {
    float *parameters, *gradient, *momentum;  /* (P) each; momentum NULL where there is none */
    int64_t size;
    float momentum_factor, weight_decay, clip_norm;  /* clip_norm: infinite where there is none */
    int64_t nesterov;
    double *squares;  /* of blocks of the gradient, where it is clipped */
    uint32_t *sums;   /* of blocks of parameters, then of momentum, left by every update; or NULL */
} Update;

/* A check of every step, run by all threads in two parts: each looks at its rows of every gradient once it has made
   them, and at the whole step once all have. The whole is below or equal to 1 where nothing stands out. */
typedef enum { OWN_ROWS, WHOLE_STEP } Looked;
typedef double (*Screen)(void *state, const Network *, const Update *, int64_t step, Looked, Team *, int thread);

static inline vector load(const float *p) { return *(const vector *)p; }

static inline void store(float *p, vector v) { *(vector *)p = v; }

/* By halves, which is the quicker order; written out, so that it stays in registers. */
static inline float sum_of(vector v) {
    float part[WIDTH / 2];
    for (int i = 0; i < WIDTH / 2; i++) part[i] = v[i] + v[i + WIDTH / 2];
    if (WIDTH == 4) return part[0] + part[1];
    for (int i = 0; WIDTH == 16 && i < 4; i++) part[i] += part[i + WIDTH / 4];
    return (part[0] + part[2]) + (part[1] + part[3]);
}

/* Rows of layer l's gradient that a thread makes. */
static inline void gradient_rows(const Network *net, int64_t l, const Team *team, int thread, int64_t *begin,
                                 int64_t *end) {
    part_of(net->layers[l].inputs, l ? TILE_ROWS : SPARSE_ROWS, thread, team->size, begin, end);
}

static inline int64_t blocks_of(const Update *update) { return (update->size + BLOCK - 1) / BLOCK; }

/* Sum of the words of `count` floats, modulo 2^32: a change of one of them always changes it. */
static inline uint32_t word_sum(const float *p, int64_t count) {
    uint32_t sum = 0;
    for (int64_t k = 0; k < count; k++) {
        uint32_t word;
        __builtin_memcpy(&word, p + k, sizeof word);
        sum += word;
    }
    return sum;
}

/* Of row i of the batch: features and label. */
static inline uint32_t row_sum(const Network *net, int64_t i) {
    int64_t features = net->layers[0].inputs;
    return word_sum(net->layers[0].h + i * features, features) + (uint32_t)net->labels[i];
}

/* The sum of block number `block` of `values`, which are parameters or momentum. */
static inline uint32_t block_sum(const Update *update, const float *values, int64_t block) {
    int64_t begin = block * BLOCK, count = update->size - begin < BLOCK ? update->size - begin : BLOCK;
    return word_sum(values + begin, count);
}

#endif

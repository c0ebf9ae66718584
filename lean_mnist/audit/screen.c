/* The batched check of lean_mnist.audit.batched, of every step of a chunk, in float32: the same residuals, sizes and
   limits, for one pass over weights, gradients and batch; but a row of dh = dz W has the size that its own dz gives it.
   Its softmax is its own, as are its activations; those that round nothing are compared as they are.

   Where something stands out the step is looked at in Python, and that decides: so nothing here refuses a step.
   Shapes: B examples, D inputs of a layer, H its units, C classes.                                                  */
#include <stdlib.h>
#include <string.h>

#include "step.h"

typedef struct {
    float forward, gradient, together, backward;  /* ordinary residuals, relative to their rows' sizes; B = 0 */
    int64_t u, v;                                 /* where a step's probes are among all: (D + 1) and (H) numbers */
    float *along, *gradient_along;                /* W^T v and b v (D + 1); each thread's part of dW u (H) */
    float *below, *all_below;                     /* each thread's part of W u (H), and its copy of the whole */
    float *h_u;                                   /* h u + u_D: (B) */
    float *h;                                     /* input of a layer above the first, computed here: (B, D) */
} LayerScreen;

enum { MOST_THREADS = 64, MOST_LAYERS = 128 };
typedef struct { /* of one thread's rows or columns, of one layer */
    double along, h_v, h_squares, gradient;    /* sums of squares */
    float forward, gradient_largest, backward; /* largest magnitudes; backward as a share */
} Sums;

typedef struct {
    LayerScreen *layers;
    const float *probes;  /* of each step of the chunk */
    int64_t probe_size;
    float underflow, unit, ulps;  /* as in audit.rounding */
    const uint32_t *feature_sums; /* of the batch's rows, or NULL */
    int64_t compares_sums;        /* of parameters and momentum */
    Sums *sums;                   /* of each thread and layer */
    struct { double likelihood; float logit, share; int64_t changed; } of_thread[MOST_THREADS];
    int64_t changed;  /* the block that was changed at rest (momentum's after the parameters'), BATCH, or NOTHING */
} State;
enum { NOTHING = -1, BATCH = -2 };
enum { TOGETHER = 32 }; /* rows of a weight, of its gradient and of its momentum that are looked at together */

typedef struct { /* of the rows of logits that one thread looks at, by their places in a vector */
    double likelihood;
    vector magnitude, share; /* the largest ones */
} Logits;

/* The probe of a step that begins at `place`, which is a layer's u or v. */
static const float *probe_of(const State *state, int64_t step, int64_t place) {
    return state->probes + step * state->probe_size + place;
}

/* `yes` where the bits of `where` are all ones, `no` where they are all zeros. */
static inline vector choose(words where, vector yes, vector no) {
    return (vector)(((words)yes & where) | ((words)no & ~where));
}

/* Of `count` numbers the first WIDTH at most, and zeros for those that are not there. */
static inline vector load_part(const float *p, int64_t count) {
    if (count >= WIDTH) return load(p);
#ifdef __AVX512F__
    return (vector)_mm512_maskz_loadu_ps((__mmask16)((1u << count) - 1), p);
#else
    vector part = {0};
    for (int i = 0; i < count; i++) part[i] = p[i];
    return part;
#endif
}

enum { ROWS = 4, PARTS = TILE_VECTORS / 2 }; /* rows that are multiplied together: no sum waits for another */

static inline __attribute__((always_inline)) void multiply(int rows, const float *a, const float *b, const float *c,
                                                           int64_t count, float *ab, float *ac, float *aa) {
    vector of_b[ROWS][PARTS] = {{{0}}}, of_c[ROWS][PARTS] = {{{0}}}, of_a[ROWS][PARTS] = {{{0}}};
    int64_t k = 0;
    for (; k + PARTS * WIDTH <= count; k += PARTS * WIDTH)
        for (int i = 0; i < PARTS; i++) {
            vector in_b = load(b + k + i * WIDTH), in_c = ac ? load(c + k + i * WIDTH) : in_b;
            for (int row = 0; row < rows; row++) {
                vector part = load(a + row * count + k + i * WIDTH);
                of_b[row][i] += part * in_b;
                if (ac) of_c[row][i] += part * in_c;
                if (aa) of_a[row][i] += part * part;
            }
        }
    for (; k < count; k += WIDTH)
        for (int row = 0; row < rows; row++) {
            vector part = load_part(a + row * count + k, count - k);
            of_b[row][0] += part * load_part(b + k, count - k);
            if (ac) of_c[row][0] += part * load_part(c + k, count - k);
            if (aa) of_a[row][0] += part * part;
        }
    for (int row = 0; row < rows; row++) {
        for (int i = 1; i < PARTS; i++) {
            of_b[row][0] += of_b[row][i];
            of_c[row][0] += of_c[row][i];
            of_a[row][0] += of_a[row][i];
        }
        ab[row] = sum_of(of_b[row][0]);
        if (ac) ac[row] = sum_of(of_c[row][0]);
        if (aa) aa[row] = sum_of(of_a[row][0]);
    }
}

/* Products of up to ROWS rows of a, which follow one another, with b and with c, and their squares; in one pass. */
static inline __attribute__((always_inline)) void products(int64_t rows, const float *a, const float *b, const float *c,
                                                           int64_t count, float *ab, float *ac, float *aa) {
    if (rows == ROWS) multiply(ROWS, a, b, c, count, ab, ac, aa);
    else
        for (int64_t i = 0; i < rows; i++)
            multiply(1, a + i * count, b, c, count, ab + i, ac ? ac + i : NULL, aa ? aa + i : NULL);
}

static void dots(int64_t rows, const float *a, const float *b, int64_t count, float *found) {
    products(rows, a, b, NULL, count, found, NULL, NULL);
}

static float dot(const float *a, const float *b, int64_t count) {
    float found;
    multiply(1, a, b, NULL, count, &found, NULL, NULL);
    return found;
}

/* The first `vectors` vectors of columns of  out += row^T matrix, of a matrix (rows, columns) row by row. */
static inline __attribute__((always_inline)) void add_columns(int vectors, const float *row, const float *matrix,
                                                              int64_t rows, int64_t columns, float *out) {
    vector sums[8];
    for (int i = 0; i < vectors; i++) sums[i] = load(out + i * WIDTH);
    for (int64_t k = 0; k < rows; k++)
        for (int i = 0; i < vectors; i++) sums[i] += row[k] * load(matrix + k * columns + i * WIDTH);
    for (int i = 0; i < vectors; i++) store(out + i * WIDTH, sums[i]);
}

/* out += row^T matrix, of a matrix (rows, columns) row by row */
static void add_row_times(const float *row, const float *matrix, int64_t rows, int64_t columns, float *out) {
    int64_t j = 0;
    for (; j + 8 * WIDTH <= columns; j += 8 * WIDTH) add_columns(8, row, matrix + j, rows, columns, out + j);
    for (; j + 2 * WIDTH <= columns; j += 2 * WIDTH) add_columns(2, row, matrix + j, rows, columns, out + j);
    for (int64_t k = 0; k < rows && j < columns; k++)
        for (int64_t column = j; column < columns; column++) out[column] += row[k] * matrix[k * columns + column];
}

static float logistic(float z) { return 1 / (1 + expf(-z)); }

static float value(const Network *net, float z) {
    switch (net->activation) {
        case SIGMOID: return logistic(z);
        case TANH: return tanhf(z);
        case GELU: return z * 0.5f * erfcf(-z * 0.707106781f);
        case SILU: return z * logistic(z);
        case LEAKY_RELU: return z > 0 ? z : net->leaky_slope * z;
        default: return z;
    }
}

static float slope(const Network *net, float z) {
    switch (net->activation) {
        case SIGMOID: return logistic(z) * logistic(-z);
        case TANH: { float t = tanhf(z); return (1 - t) * (1 + t); }
        case GELU: return 0.5f * erfcf(-z * 0.707106781f) + z * expf(-0.5f * z * z) * 0.398942280f;
        case SILU: { float s = logistic(z); return s + z * s * logistic(-z); }
        case LEAKY_RELU: return z > 0 ? 1 : net->leaky_slope;
        default: return 1;
    }
}

static int is_exact(const Network *net) { /* its derivative rounds nothing */
    return net->activation == RELU || net->activation == IDENTITY;
}

static float larger(float a, float b) { return b > a || b != b ? b : a; } /* NaN is the largest of all */

/* Blocks of parameters and momentum below number *next, down to those that begin at `from`: whether one was changed. */
static void look_at_blocks(const Update *update, const float *from, int64_t first, int64_t *next, int64_t *changed) {
    int64_t blocks = blocks_of(update);
    while (*next > first && update->parameters + (*next - 1) * BLOCK >= from) {
        int64_t block = --*next;
        if (update->sums[block] != block_sum(update, update->parameters, block)) *changed = block;
        else if (update->momentum && update->sums[blocks + block] != block_sum(update, update->momentum, block))
            *changed = blocks + block;
    }
}

/* W^T v, W u and dW u, of the rows whose gradient this thread has made; and what rests in memory, block by block.

   All of it is read once, some rows of each at a time, the last ones first: what was read last is still in the cache
   when the update comes, which begins with the first ones.                                                           */
static void look_at_parameters(State *state, const Network *net, const Update *update, int64_t step, Team *team,
                               int thread) {
    int64_t begin, end, first = 0, block = 0, changed = NOTHING;
    if (state->compares_sums) part_of(blocks_of(update), 1, thread, team->size, &first, &block);
    for (int64_t l = net->depth - 1; l >= 0; l--) {
        const Layer *layer = net->layers + l;
        const LayerScreen *own = state->layers + l;
        const float *u = probe_of(state, step, own->u), *v = probe_of(state, step, own->v);
        int64_t units = layer->units;
        float *gradient_along = own->gradient_along + thread * units, *below = own->below + thread * units;
        Sums *sums = state->sums + thread * net->depth + l;
        memset(sums, 0, sizeof *sums);
        memset(gradient_along, 0, sizeof(float) * units);
        memset(below, 0, sizeof(float) * units);
        gradient_rows(net, l, team, thread, &begin, &end);
        for (int64_t d, last = end; last > begin; last = d) {
            d = last - begin > TOGETHER ? last - TOGETHER : begin;
            const float *weight = layer->weight + d * units;
            if (state->compares_sums) look_at_blocks(update, weight, first, &block, &changed);
            for (int64_t k = d; k < last; k += ROWS)
                dots(last - k < ROWS ? last - k : ROWS, layer->weight + k * units, v, units, own->along + k);
            if (l) add_row_times(u + d, weight, last - d, units, below);
            add_row_times(u + d, layer->d_weight + d * units, last - d, units, gradient_along);
        }
        sums->along = dot(own->along + begin, own->along + begin, end - begin);
        if (thread == 0 && layer->bias) {
            float bias = own->along[layer->inputs] = dot(layer->bias, v, units);
            sums->along += (double)bias * bias;
        }
    }
    if (state->compares_sums) look_at_blocks(update, update->parameters, first, &block, &changed);
    state->of_thread[thread].changed = changed;
}

static inline vector larger_of(vector a, vector b) { return choose((words)(b > a) | (words)(b != b), b, a); }

static float largest_of(vector v) {
    float part[WIDTH];
    store(part, v);
    for (int half = WIDTH / 2; half; half /= 2)
        for (int i = 0; i < half; i++) part[i] = larger(part[i], part[i + half]);
    return part[0];
}

static inline vector magnitude(vector v) { return (vector)((words)v & 0x7fffffff); }

/* e^x for x <= 0, off by about a unit in the last place: 2^n e^r, |r| <= ln 2 / 2. */
static inline vector power(vector x) {
    const float round = 12582912; /* 1.5 2^23: a number plus this is a whole one, in its last bits */
    vector lowest = (vector){0} - 103.97f;
    x = choose((words)(x < lowest), lowest, x);
    vector shifted = x * 1.44269504f + round, n = shifted - round;
    vector r = (x - n * 0.693145752f) - n * 1.42860677e-6f;
    vector e = 8.33333333e-3f + r * (1.38888889e-3f + r * 1.98412698e-4f);
    e = 1 + r * (1 + r * (0.5f + r * (1.66666667e-1f + r * (4.16666667e-2f + r * e))));
    words whole = (words)shifted - 0x4b400000u, half = (whole + 512) / 2 - 256; /* two factors: e^x may be denormal */
    return e * (vector)((half + 127) << 23) * (vector)((whole - half + 127) << 23);
}

/* Number c of each of the rows from `p` on, of which `last` is the last that is there; it stands for those after it. */
static inline vector column(const float *p, int64_t classes, int64_t c, int last) {
    float part[WIDTH];
    for (int i = 0; i < WIDTH; i++) part[i] = p[(i < last ? i : last) * classes + c];
    return load(part);
}

/* Loss and gradient of rows of logits, WIDTH of them at most, class by class: their log-likelihood, the largest logits
   and shares of an error. */
static void look_at_logits(const State *state, const Network *net, int64_t begin, int64_t end, Logits *found) {
    const Layer *layer = net->layers + net->depth - 1;
    int64_t classes = layer->units;
    int last = end - begin < WIDTH ? (int)(end - begin) - 1 : WIDTH - 1;
    const float *s = layer->z + begin * classes, *d_s = layer->d_z + begin * classes;
    float epsilon = net->label_smoothing, penalty = net->logit_penalty, scale = 1.0f / net->examples, logs[WIDTH];
    float ulp = state->ulps * state->unit * scale;
    vector largest = column(s, classes, 0, last), total = {0}, likelihood = {0}, zero = {0};
    words labels;
    for (int i = 0; i < WIDTH; i++) labels[i] = (uint32_t)net->labels[begin + (i < last ? i : last)];
    for (int64_t c = 1; c < classes; c++) largest = larger_of(largest, column(s, classes, c, last));
    for (int64_t c = 0; c < classes; c++) total += power(column(s, classes, c, last) - largest);
    for (int i = 0; i < WIDTH; i++) logs[i] = logf(total[i]);
    for (int64_t c = 0; c < classes; c++) {
        vector here = column(s, classes, c, last), u = here - largest, log_p = u - load(logs), p = power(u) / total;
        vector q = choose((words)(labels == (uint32_t)c), zero + (1 - epsilon), zero) + epsilon / classes;
        likelihood += q * log_p - penalty / 2 * here * here;
        vector size = q + 2 * p - choose((words)(p > zero), p * log_p, zero) + penalty * magnitude(here);
        vector error = magnitude(column(d_s, classes, c, last) - scale * (p - q + penalty * here));
        found->share = larger_of(found->share, error / (ulp * size + state->underflow));
        found->magnitude = larger_of(found->magnitude, magnitude(here));
    }
    for (int i = 0; i <= last; i++) found->likelihood += likelihood[i];
}

/* Residuals of the products and functions of each row, `begin` to `end`. */
static void look_at_rows(State *state, const Network *net, int64_t step, int64_t begin, int64_t end, int thread,
                         int threads) {
    float share = 0;
    Logits logits = {0};
    int64_t changed = state->of_thread[thread].changed;
    float below[MOST_LAYERS]; /* the mean square of W u */
    for (int64_t l = 1; l < net->depth; l++) {
        int64_t units = net->layers[l].units;
        float *all = state->layers[l].all_below + thread * units;
        for (int64_t j = 0; j < units; j++) {
            all[j] = state->layers[l].below[j];
            for (int t = 1; t < threads; t++) all[j] += state->layers[l].below[t * units + j];
        }
        below[l] = dot(all, all, units) / units;
    }
    for (int64_t i = begin; i < end; i += ROWS) {
        int64_t rows = end - i < ROWS ? end - i : ROWS;
        for (int64_t row = i; row < i + rows && state->feature_sums; row++)
            if (state->feature_sums[row] != row_sum(net, row)) changed = BATCH;
        for (int64_t l = 0; l < net->depth; l++) {
            const Layer *layer = net->layers + l;
            const LayerScreen *own = state->layers + l;
            Sums *sums = state->sums + thread * net->depth + l;
            int64_t inputs = layer->inputs, units = layer->units;
            const float *u = probe_of(state, step, own->u), *h = (l && !is_exact(net) ? own->h : layer->h) + i * inputs;
            const float *z = layer->z + i * units, *d_z = layer->d_z + i * units;
            float h_v[ROWS], h_u[ROWS], h_square[ROWS], z_v[ROWS], d_z_below[ROWS], d_z_square[ROWS], d_h_u[ROWS];
            products(rows, h, own->along, u, inputs, h_v, h_u, h_square);
            dots(rows, z, probe_of(state, step, own->v), units, z_v);
            for (int64_t row = 0; row < rows; row++) {
                if (layer->bias) h_v[row] += own->along[inputs];
                own->h_u[i + row] = h_u[row] + (layer->bias ? u[inputs] : 0);
                sums->h_v += (double)h_v[row] * h_v[row];
                sums->forward = larger(sums->forward, fabsf(h_v[row] - z_v[row]));
                sums->h_squares += h_square[row];
            }
            if (l) {
                products(rows, d_z, own->all_below + thread * units, NULL, units, d_z_below, NULL, d_z_square);
                dots(rows, layer->d_h + i * inputs, u, inputs, d_h_u);
                for (int64_t row = 0; row < rows; row++) {
                    float size = own->backward * sqrtf(d_z_square[row] * below[l]) + state->underflow;
                    sums->backward = larger(sums->backward, fabsf(d_z_below[row] - d_h_u[row]) / size);
                }
            }
            if (l + 1 == net->depth) break;
            const float *d_h = layer[1].d_h + i * units, *above = layer[1].h + i * units;
            int64_t wrong = 0;
            if (is_exact(net))
                for (int64_t j = 0; j < rows * units; j++) {
                    int on = net->activation == IDENTITY || z[j] > 0;
                    wrong += (above[j] != (on ? z[j] : 0)) + (d_z[j] != (on ? d_h[j] : 0));
                }
            else
                for (int64_t j = 0; j < rows * units; j++) {
                    float allowed = state->ulps * state->unit * fabsf(d_h[j]) + state->underflow;
                    share = larger(share, fabsf(d_z[j] - slope(net, z[j]) * d_h[j]) / allowed);
                    own[1].h[i * units + j] = value(net, z[j]);
                }
            if (wrong) share = INFINITY;
        }
    }
    for (int64_t i = begin; i < end; i += WIDTH) look_at_logits(state, net, i, end, &logits);
    state->of_thread[thread].likelihood = logits.likelihood;
    state->of_thread[thread].logit = largest_of(logits.magnitude);
    state->of_thread[thread].share = larger(share, largest_of(logits.share));
    state->of_thread[thread].changed = changed;
}

/* Residuals of the rows of dW and db: columns `begin` to `end` as they lie in memory. */
static void look_at_gradients(State *state, const Network *net, int64_t step, Team *team, int thread) {
    for (int64_t l = 0; l < net->depth; l++) {
        const LayerScreen *own = state->layers + l;
        Sums *sums = state->sums + thread * net->depth + l;
        const Layer *layer = net->layers + l;
        const float *u = probe_of(state, step, own->u);
        int64_t begin, end, units = layer->units;
        part_of(units, WIDTH, thread, team->size, &begin, &end);
        for (int64_t j0 = begin; j0 < end; j0 += WIDTH) {
            int64_t count = end - j0 < WIDTH ? end - j0 : WIDTH;
            vector residual = {0}, squares = {0};
            for (int64_t i = 0; i < net->examples;) { /* in blocks: all terms may have one sign */
                vector some = {0};
                for (int64_t last = i + TERMS < net->examples ? i + TERMS : net->examples; i < last; i++) {
                    const float *d_z = layer->d_z + i * units + j0;
                    vector part = load_part(d_z, count);
                    some += part * own->h_u[i];
                    squares += part * part;
                }
                residual += some;
            }
            for (int64_t j = 0; j < count; j++) {
                float square = squares[j] + 1.17549435e-38f;
                float along = layer->bias ? u[layer->inputs] * layer->d_bias[j0 + j] : 0;
                for (int t = 0; t < team->size; t++) along += own->gradient_along[t * units + j0 + j];
                float of = (along - residual[j]) / sqrtf(square);
                sums->gradient_largest = larger(sums->gradient_largest, fabsf(of));
                sums->gradient += (double)of * of;
            }
        }
    }
}

/* The largest residual as a share of what is ordinary; NaN where something rests in memory no longer. */
double screen(State *state, const Network *net, const Update *update, int64_t step, Looked what, Team *team,
              int thread) {
    int64_t begin, end, examples = net->examples;
    if (what == OWN_ROWS) {
        look_at_parameters(state, net, update, step, team, thread);
        return NAN;
    }
    part_of(examples, 1, thread, team->size, &begin, &end);
    look_at_rows(state, net, step, begin, end, thread, team->size);
    meet(team);
    look_at_gradients(state, net, step, team, thread);
    meet(team);
    double likelihood = 0, loss = 0, largest = 0;
    float logit = 1, share = 0;
    int64_t changed = NOTHING;
    for (int t = 0; t < team->size; t++) {
        likelihood += state->of_thread[t].likelihood;
        logit = larger(logit, state->of_thread[t].logit);
        share = larger(share, state->of_thread[t].share);
        if (state->of_thread[t].changed != NOTHING) changed = state->of_thread[t].changed;
    }
    for (int64_t i = 0; i < examples; i++) loss += net->loss[i];
    double loss_size = 1 + logit + net->logit_penalty * logit * logit;
    double error = fabs(loss + likelihood) / examples / (state->ulps * state->unit * loss_size);
    largest = share > error || share != share ? share : error;
    for (int64_t l = 0; l < net->depth; l++) {
        const LayerScreen *own = state->layers + l;
        int64_t inputs = net->layers[l].inputs, units = net->layers[l].units, bias = net->layers[l].bias != NULL;
        Sums all = {0};
        for (int t = 0; t < team->size; t++) {
            const Sums *sums = state->sums + t * net->depth + l;
            all.along += sums->along;
            all.h_v += sums->h_v;
            all.h_squares += sums->h_squares;
            all.gradient += sums->gradient;
            all.forward = larger(all.forward, sums->forward);
            all.backward = larger(all.backward, sums->backward);
            all.gradient_largest = larger(all.gradient_largest, sums->gradient_largest);
        }
        double h_square = all.h_squares / examples;
        double walk = (h_square + bias) * all.along / (inputs + bias);
        double size = sqrt((h_square + bias * inputs) * (examples + inputs) / inputs), shares[4] = {
            all.forward / (own->forward * sqrt(all.h_v / examples + walk) + state->underflow),
            all.gradient_largest / (own->gradient * size + state->underflow),
            sqrt(all.gradient / units) / (own->together * size + state->underflow),
            all.backward,
        };
        for (int i = 0; i < 4; i++)
            if (largest == largest && !(shares[i] <= largest)) largest = shares[i]; /* also NaN, which then stays */
    }
    if (thread == 0) state->changed = changed;
    return changed == NOTHING ? largest : NAN;
}

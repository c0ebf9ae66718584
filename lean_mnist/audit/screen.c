/* The batched check of lean_mnist.audit.batched, of every step of a chunk, in float32: the same residuals, sizes and
   limits, for one pass over weights, gradients and batch; but a row of dh = dz W has the size that its own dz gives it.
   Its activations and its softmax are its own.

   Where something stands out the step is looked at in Python, and that decides: so nothing here refuses a step.
   Shapes: B examples, D inputs of a layer, H its units, C classes.                                                  */
#include <stdlib.h>
#include <string.h>

#include "step.h"

typedef struct {
    float forward, gradient, together, backward;  /* ordinary residuals, relative to their rows' sizes; B = 0 */
    const float *u, *v;                           /* this step's probes: (D + 1) and (H) */
    float *along, *gradient_along, *below;        /* W^T v and b v (D + 1); each thread's part of dW u (H); W u (H) */
    float *h_u;                                   /* h u + u_D: (B) */
    float *h, *d_z;                               /* computed here: the input (B, D), above the first layer; and dz (B, H) */
} LayerScreen;

enum { MOST_THREADS = 64, MOST_LAYERS = 128 };
typedef struct { /* of one thread's rows or columns, of one layer */
    double along, h_v, h_squares, below, gradient;  /* sums of squares */
    float forward, gradient_largest, backward;                 /* largest magnitudes; backward as a share */
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

static inline void store(float *p, vector v) { *(vector *)p = v; }

/* Products of a with b and with c, and its square, in one pass over it. */
static inline __attribute__((always_inline)) void dots(const float *a, const float *b, const float *c, int64_t count,
                                                       float *ab, float *ac, float *aa) {
    vector of_b[2] = {{0}}, of_c[2] = {{0}}, of_a[2] = {{0}};
    int64_t k = 0;
    for (; k + 2 * WIDTH <= count; k += 2 * WIDTH)
        for (int i = 0; i < 2; i++) {
            vector part = load(a + k + i * WIDTH);
            of_b[i] += part * load(b + k + i * WIDTH);
            if (ac) of_c[i] += part * load(c + k + i * WIDTH);
            if (aa) of_a[i] += part * part;
        }
    float rest_b = 0, rest_c = 0, rest_a = 0;
    for (; k < count; k++) {
        rest_b += a[k] * b[k];
        if (ac) rest_c += a[k] * c[k];
        if (aa) rest_a += a[k] * a[k];
    }
    *ab = sum_of(of_b[0] + of_b[1]) + rest_b;
    if (ac) *ac = sum_of(of_c[0] + of_c[1]) + rest_c;
    if (aa) *aa = sum_of(of_a[0] + of_a[1]) + rest_a;
}

static float dot(const float *a, const float *b, int64_t count) {
    float found;
    dots(a, b, NULL, count, &found, NULL, NULL);
    return found;
}

/* columns (begin .. end) of  row^T matrix, of a matrix (rows, columns) row by row */
static void row_times(const float *row, const float *matrix, int64_t rows, int64_t columns, int64_t begin, int64_t end,
                      float *out) {
    int64_t j = begin;
    for (; j + 4 * WIDTH <= end; j += 4 * WIDTH) {
        vector sums[4] = {{0}};
        for (int64_t k = 0; k < rows; k++)
            for (int i = 0; i < 4; i++) sums[i] += row[k] * load(matrix + k * columns + j + i * WIDTH);
        for (int i = 0; i < 4; i++) store(out + j + i * WIDTH, sums[i]);
    }
    for (int64_t k = j; k < end; k++) out[k] = 0;
    for (int64_t k = 0; k < rows && j < end; k++)
        for (int64_t column = j; column < end; column++) out[column] += row[k] * matrix[k * columns + column];
}

static float logistic(float z) { return 1 / (1 + expf(-z)); }

static float value(const Network *net, float z) {
    switch (net->activation) {
        case SIGMOID: return logistic(z);
        case TANH: return tanhf(z);
        case GELU: return z * 0.5f * erfcf(-z * 0.707106781f);
        case SILU: return z * logistic(z);
        case LEAKY_RELU: return z > 0 ? z : net->leaky_slope * z;
        case RELU: return z > 0 ? z : z != z ? z : 0;
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
        case RELU: return z > 0 ? 1 : 0;
        default: return 1;
    }
}

static int is_exact(const Network *net) { /* its derivative rounds nothing */
    return net->activation == RELU || net->activation == IDENTITY;
}

static float larger(float a, float b) { return b > a || b != b ? b : a; } /* NaN is the largest of all */

/* Blocks of parameters and momentum from *next on, up to block number `end`; the first that was changed at rest. */
static void look_at_blocks(const Update *update, int64_t *next, int64_t end, int64_t *changed) {
    for (; *next < end; ++*next) {
        int64_t blocks = blocks_of(update), block = *next;
        if (*changed != NOTHING) continue;
        if (update->sums[block] != block_sum(update, update->parameters, block)) *changed = block;
        else if (update->momentum && update->sums[blocks + block] != block_sum(update, update->momentum, block))
            *changed = blocks + block;
    }
}

/* W^T v, W u, dW u; and what rests in memory: its blocks beside the rows that lie in them, which are read once so. */
static void look_at_parameters(State *state, const Network *net, const Update *update, Team *team, int thread) {
    int64_t begin, end, block, last_block, changed = NOTHING;
    part_of(state->compares_sums ? blocks_of(update) : 0, 1, thread, team->size, &block, &last_block);
    for (int64_t l = 0; l < net->depth; l++) {
        const Layer *layer = net->layers + l;
        const LayerScreen *own = state->layers + l;
        Sums *sums = state->sums + thread * net->depth + l;
        memset(sums, 0, sizeof *sums);
        part_of(layer->inputs, 8, thread, team->size, &begin, &end);
        for (int64_t d = begin; d < end; d++) {
            const float *row = layer->weight + d * layer->units;
            if (block < last_block && row >= update->parameters + block * BLOCK)
                look_at_blocks(update, &block, block + 1, &changed);
            own->along[d] = dot(row, own->v, layer->units);
        }
        sums->along = dot(own->along + begin, own->along + begin, end - begin);
        if (thread == 0 && layer->bias) {
            float bias = own->along[layer->inputs] = dot(layer->bias, own->v, layer->units);
            sums->along += (double)bias * bias;
        }
        /* Each thread reads the rows that it has written, as near as can be; the parts are added up later. */
        row_times(own->u + begin, layer->d_weight + begin * layer->units, end - begin, layer->units, 0, layer->units,
                  own->gradient_along + thread * layer->units);
        part_of(layer->units, 4 * WIDTH, thread, team->size, &begin, &end);
        if (l) {
            row_times(own->u, layer->weight, layer->inputs, layer->units, begin, end, own->below);
            sums->below = dot(own->below + begin, own->below + begin, end - begin);
        }
    }
    look_at_blocks(update, &block, last_block, &changed);
    state->of_thread[thread].changed = changed;
}

/* Loss and gradient of a row of logits: its log-likelihood; the largest logit and share of an error join the others. */
static double look_at_logits(const State *state, const Network *net, int64_t row, float *powers, float *logit,
                             float *share) {
    const Layer *last = net->layers + net->depth - 1;
    int64_t classes = last->units, label = net->labels[row];
    const float *s = last->z + row * classes, *d_s = last->d_z + row * classes;
    float largest = s[0], scale = 1.0f / net->examples, epsilon = net->label_smoothing, penalty = net->logit_penalty;
    for (int64_t c = 0; c < classes; c++) {
        largest = s[c] > largest ? s[c] : largest;
        *logit = larger(*logit, fabsf(s[c]));
    }
    float total = 0;
    for (int64_t c = 0; c < classes; c++) total += powers[c] = expf(s[c] - largest);
    float log_total = logf(total);
    double likelihood = 0;
    for (int64_t c = 0; c < classes; c++) {
        float log_p = (s[c] - largest) - log_total, p = powers[c] / total;
        float q = (c == label ? 1 - epsilon : 0) + epsilon / classes;
        likelihood += (double)q * log_p - penalty / 2 * s[c] * s[c];
        float expected = scale * (p - q + penalty * s[c]);
        float size = q + 2 * p - (p > 0 ? p * log_p : 0) + penalty * fabsf(s[c]);
        *share = larger(*share, fabsf(d_s[c] - expected) / (state->ulps * state->unit * scale * size + state->underflow));
    }
    return likelihood;
}

/* Residuals of the products and functions of each row, `begin` to `end`. */
static void look_at_rows(State *state, const Network *net, int64_t begin, int64_t end, int thread, int threads) {
    float logit = 0, share = 0;
    double likelihood = 0;
    int64_t changed = state->of_thread[thread].changed;
    double below[MOST_LAYERS] = {0}; /* the mean square of W u */
    for (int64_t l = 1; l < net->depth; l++)
        for (int t = 0; t < threads; t++)
            below[l] += state->sums[t * net->depth + l].below / net->layers[l].units;
    for (int64_t i = begin; i < end; i++) {
        const float *h = net->layers[0].h + i * net->layers[0].inputs;
        if (state->feature_sums && state->feature_sums[i] != row_sum(net, i)) changed = BATCH;
        for (int64_t l = 0; l < net->depth; l++) {
            const Layer *layer = net->layers + l, *above = layer + 1;
            const LayerScreen *own = state->layers + l;
            Sums *sums = state->sums + thread * net->depth + l;
            int64_t inputs = layer->inputs, units = layer->units;
            const float *z = layer->z + i * units, *d_z = layer->d_z + i * units;
            float h_v, h_u, square;
            dots(h, own->along, own->u, inputs, &h_v, &h_u, &square);
            if (layer->bias) h_v += own->along[inputs];
            own->h_u[i] = h_u + (layer->bias ? own->u[inputs] : 0);
            sums->h_v += (double)h_v * h_v;
            sums->forward = larger(sums->forward, fabsf(h_v - dot(z, own->v, units)));
            sums->h_squares += square;
            if (l) {
                float d_z_below, d_z_square;
                dots(d_z, own->below, NULL, units, &d_z_below, NULL, &d_z_square);
                float residual = d_z_below - dot(layer->d_h + i * inputs, own->u, inputs);
                float size = own->backward * sqrtf(d_z_square * (float)below[l]) + state->underflow;
                sums->backward = larger(sums->backward, fabsf(residual) / size);
            }
            float *computed = own->d_z + i * units;
            if (l + 1 == net->depth) {
                likelihood += look_at_logits(state, net, i, computed, &logit, &share);
                memcpy(computed, d_z, sizeof(float) * units);
                break;
            }
            const float *d_h = above->d_h + i * units;
            float *next = state->layers[l + 1].h + i * units;
            if (net->activation == RELU)
                for (int64_t j = 0; j < units; j++) {
                    next[j] = z[j] <= 0 ? 0 : z[j];
                    computed[j] = z[j] > 0 ? d_h[j] : 0;
                }
            else
                for (int64_t j = 0; j < units; j++) {
                    next[j] = value(net, z[j]);
                    computed[j] = slope(net, z[j]) * d_h[j];
                }
            if (!is_exact(net))
                for (int64_t j = 0; j < units; j++) {
                    float allowed = state->ulps * state->unit * fabsf(d_h[j]) + state->underflow;
                    share = larger(share, fabsf(d_z[j] - computed[j]) / allowed);
                    computed[j] = d_z[j];
                }
            h = next;
        }
    }
    state->of_thread[thread].likelihood = likelihood;
    state->of_thread[thread].logit = logit;
    state->of_thread[thread].share = share;
    state->of_thread[thread].changed = changed;
}

/* Residuals of the rows of dW and db: columns `begin` to `end` as they lie in memory. */
static void look_at_gradients(State *state, const Network *net, Team *team, int thread) {
    for (int64_t l = 0; l < net->depth; l++) {
        const LayerScreen *own = state->layers + l;
        Sums *sums = state->sums + thread * net->depth + l;
        int64_t begin, end, units = net->layers[l].units;
        part_of(units, WIDTH, thread, team->size, &begin, &end);
        for (int64_t j0 = begin; j0 < end; j0 += WIDTH) {
            int64_t count = end - j0 < WIDTH ? end - j0 : WIDTH;
            vector residual = {0}, squares = {0};
            for (int64_t i = 0; i < net->examples;) { /* in blocks: all terms may have one sign */
                vector some = {0};
                for (int64_t last = i + TERMS < net->examples ? i + TERMS : net->examples; i < last; i++) {
                    const float *d_z = own->d_z + i * units + j0;
                    vector part = {0};
                    if (count == WIDTH) part = load(d_z);
                    else
                        for (int64_t j = 0; j < count; j++) part[j] = d_z[j];
                    some += part * own->h_u[i];
                    squares += part * part;
                }
                residual += some;
            }
            for (int64_t j = 0; j < count; j++) {
                float square = squares[j] + 1.17549435e-38f;
                float along = net->layers[l].bias ? own->u[net->layers[l].inputs] * net->layers[l].d_bias[j0 + j] : 0;
                for (int t = 0; t < team->size; t++) along += own->gradient_along[t * units + j0 + j];
                float of = (along - residual[j]) / sqrtf(square);
                sums->gradient_largest = larger(sums->gradient_largest, fabsf(of));
                sums->gradient += (double)of * of;
            }
        }
    }
}

/* The largest residual as a share of what is ordinary; NaN where something rests in memory no longer. */
double screen(State *state, const Network *net, const Update *update, int64_t step, Team *team, int thread) {
    int64_t begin, end, examples = net->examples;
    if (thread == 0) {
        const float *probe = state->probes + step * state->probe_size;
        for (int64_t l = 0; l < net->depth; probe += net->layers[l++].inputs + 1) state->layers[l].u = probe;
        for (int64_t l = 0; l < net->depth; probe += net->layers[l++].units) state->layers[l].v = probe;
    }
    meet(team);
    look_at_parameters(state, net, update, team, thread);
    meet(team);
    part_of(examples, 1, thread, team->size, &begin, &end);
    look_at_rows(state, net, begin, end, thread, team->size);
    meet(team);
    look_at_gradients(state, net, team, thread);
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

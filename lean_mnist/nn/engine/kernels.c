/* Training steps of a multilayer perceptron in float32: several in one call, on one thread or more.

   An implementation of lean_mnist.chainrule, operation by operation under the same names; the engine's first step is
   compared with it, and every check of a step reads the tape that is left here. Matrices are row by row; a weight lies
   as (inputs, units). Every number is summed in one order, whatever the number of threads, so that results have the
   same bits. Shapes: B examples, D inputs of a layer, H its units, C classes.                                        */
#define _GNU_SOURCE /* for the processor that a thread runs on */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "step.h"

enum { TILE_COLUMNS = WIDTH * TILE_VECTORS };

typedef struct {
    Network *network;
    Source *source;  /* NULL: the batch stands in the tape already */
    Update *update;  /* NULL: the gradient only */
    Screen screen;   /* NULL: none */
    void *screen_state;
    const float *rates;    /* a step's learning rate */
    int64_t steps;         /* to be taken, at most */
    double seconds;        /* no further step after so many */
    double *losses;        /* of each step taken */
    double screen_seconds;
    int64_t hold;          /* leave the update of the last step to the caller */
    int64_t taken, status; /* status: of the first step that was not applied, or DONE */
    int64_t finite[64];    /* of each thread's part */
} Work;
enum { DONE, NOT_FINITE, STOOD_OUT, BAD_BATCH, HELD };

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

/* Have the screen, if there is one, look at a part of a step; its time is that of the first thread. */
static double look(Work *work, int64_t step, Looked what, Team *team, int thread) {
    if (!work->screen) return 0;
    double begun = now();
    double share = work->screen(work->screen_state, work->network, work->update, step, what, team, thread);
    if (thread == 0) work->screen_seconds += now() - begun;
    return share;
}

/* ---- products ---------------------------------------------------------------------------------------------------- */

/* A tile of c = (a - shift) b + start: `rows` of a (strides ar, ac) times `vectors` of columns of b, of the `inner`
   terms that `list` names, or the first ones where it is NULL. Row i of `start` is at start + i sr; NULL: zeros. */
static inline __attribute__((always_inline)) void tile(int rows, int vectors, int64_t inner, const int32_t *list,
                                                       float shift, const float *a, int64_t ar, int64_t ac,
                                                       const float *b, int64_t br, const float *start, int64_t sr,
                                                       float *c, int64_t cr, vector *zeros) {
    vector sum[TILE_ROWS][TILE_VECTORS] = {{{0}}};
    for (int64_t n = 0; n < inner; n++) {
        int64_t k = list ? list[n] : n;
        vector row[TILE_VECTORS];
        for (int v = 0; v < vectors; v++) row[v] = load(b + k * br + v * WIDTH);
        for (int i = 0; i < rows; i++)
            for (int v = 0; v < vectors; v++) sum[i][v] += (a[i * ar + k * ac] - shift) * row[v];
    }
    vector all = {0};
    for (int v = 0; v < vectors && start; v++)
        for (int i = 0; i < rows; i++) sum[i][v] += load(start + i * sr + v * WIDTH);
    for (int v = 0; v < vectors; v++) {
        vector column = sum[0][v];
        store(c + v * WIDTH, sum[0][v]);
        for (int i = 1; i < rows; i++) {
            store(c + i * cr + v * WIDTH, sum[i][v]);
            column += sum[i][v];
        }
        all += column;
    }
    *zeros += all * 0; /* NaN where a number is not finite */
}

#define ROWS_OF(vectors)                                                                                               \
    switch (rows) {                                                                                                    \
        case 1: tile(1, vectors, inner, NULL, 0, a, ar, ac, b, br, start, sr, c, cr, zeros); break;                    \
        case 2: tile(2, vectors, inner, NULL, 0, a, ar, ac, b, br, start, sr, c, cr, zeros); break;                    \
        case 3: tile(3, vectors, inner, NULL, 0, a, ar, ac, b, br, start, sr, c, cr, zeros); break;                    \
        case 4: tile(4, vectors, inner, NULL, 0, a, ar, ac, b, br, start, sr, c, cr, zeros); break;                    \
        case 5: tile(5, vectors, inner, NULL, 0, a, ar, ac, b, br, start, sr, c, cr, zeros); break;                    \
        default: tile(6, vectors, inner, NULL, 0, a, ar, ac, b, br, start, sr, c, cr, zeros);                          \
    }

static void tile_of(int rows, int vectors, int64_t inner, const float *a, int64_t ar, int64_t ac, const float *b,
                    int64_t br, const float *start, int64_t sr, float *c, int64_t cr, vector *zeros) {
    if (vectors == 1) {
        ROWS_OF(1)
    } else if (vectors < TILE_VECTORS) { /* the rest of them are columns of zeros */
        ROWS_OF(TILE_VECTORS / 2)
    } else {
        ROWS_OF(TILE_VECTORS)
    }
}

/* c (rows, columns) = a b + start, element (i, k) of a at a[i ar + k ac], of b at b[k br + j bc], (i, j) of c at
   c[i cr + j]; `start` is one row.

   Columns that fill no tile, and a b that does not lie row by row, are copied into `scratch` first. `zeros` becomes NaN
   where a number of c is not finite. */
static void product(int64_t rows, int64_t columns, int64_t inner, const float *a, int64_t ar, int64_t ac,
                    const float *b, int64_t br, int64_t bc, const float *start, float *c, int64_t cr,
                    float *scratch, vector *zeros) {
    int64_t blocks = (rows + TILE_ROWS - 1) / TILE_ROWS;
    for (int64_t j = 0; j < columns; j += TILE_COLUMNS) {
        int64_t width = columns - j < TILE_COLUMNS ? columns - j : TILE_COLUMNS;
        int whole = width == TILE_COLUMNS, vectors = width <= WIDTH ? 1 : width <= TILE_COLUMNS / 2 ? TILE_VECTORS / 2 : TILE_VECTORS;
        const float *panel = b + j * bc, *from = start ? start + j : NULL;
        int64_t panel_row = br;
        float padded[TILE_COLUMNS] = {0}, rest[TILE_ROWS * TILE_COLUMNS] = {0};
        if (!whole || bc != 1) {
            int64_t wide = vectors * WIDTH;
            for (int64_t k0 = 0; k0 < inner; k0 += 16) {
                int64_t k1 = k0 + 16 < inner ? k0 + 16 : inner;
                for (int64_t column = 0; column < wide; column++)
                    for (int64_t k = k0; k < k1; k++)
                        scratch[k * wide + column] = column < width ? panel[k * br + column * bc] : 0;
            }
            panel = scratch;
            panel_row = wide;
        }
        if (from && !whole) from = memcpy(padded, from, sizeof(float) * width);
        int64_t cells = whole ? cr : TILE_COLUMNS; /* of a row where a tile puts its results */
        for (int64_t k = 0; k < inner; k += TERMS) {
            int64_t terms = inner - k < TERMS ? inner - k : TERMS;
            for (int64_t block = 0; block < blocks; block++) { /* of nearly equal numbers of rows */
                int64_t i = rows * block / blocks, end = rows * (block + 1) / blocks;
                float *place = whole ? c + i * cr + j : rest;
                for (int64_t row = i; row < end && k && !whole; row++)
                    memcpy(rest + (row - i) * TILE_COLUMNS, c + row * cr + j, sizeof(float) * width);
                tile_of((int)(end - i), vectors, terms, a + i * ar + k * ac, ar, ac, panel + k * panel_row, panel_row,
                        k ? place : from, k ? cells : 0, place, cells, zeros);
                for (int64_t row = i; row < end && !whole; row++)
                    memcpy(c + row * cr + j, rest + (row - i) * TILE_COLUMNS, sizeof(float) * width);
            }
        }
    }
}

/* As a tile of a product, of the terms that `list` names; b and c have br columns a row. */
static void listed_tile(int64_t rows, int64_t inner, const int32_t *list, float shift, const float *a, int64_t ar,
                        int64_t ac, const float *b, int64_t br, const float *start, float *c, vector *zeros) {
    int64_t sr = 0, begin = 0;
    do {
        int64_t terms = inner - begin < TERMS ? inner - begin : TERMS;
        const int32_t *some = list + begin;
        switch (rows) {
            case 1: tile(1, TILE_VECTORS, terms, some, shift, a, ar, ac, b, br, start, sr, c, br, zeros); break;
            case 2: tile(2, TILE_VECTORS, terms, some, shift, a, ar, ac, b, br, start, sr, c, br, zeros); break;
            case 3: tile(3, TILE_VECTORS, terms, some, shift, a, ar, ac, b, br, start, sr, c, br, zeros); break;
            default: tile(SPARSE_ROWS, TILE_VECTORS, terms, some, shift, a, ar, ac, b, br, start, sr, c, br, zeros);
        }
        start = c;
        sr = br;
        begin += TERMS;
    } while (begin < inner);
}

/* ---- elementwise ------------------------------------------------------------------------------------------------- */

/* e^x in float32, off by about a unit in the last place: 2^n e^r, |r| <= ln 2 / 2, by its Taylor polynomial. */
static inline float exponential(float x) {
    float given = x;
    x = x > 88.72f ? 88.72f : x < -103.97f ? -103.97f : x;
    float n = __builtin_rintf(x * 1.44269504f);
    float r = (x - n * 0.693145752f) - n * 1.42860677e-6f;
    float p = 1.98412698e-4f;
    p = p * r + 1.38888889e-3f;
    p = p * r + 8.33333333e-3f;
    p = p * r + 4.16666667e-2f;
    p = p * r + 1.66666667e-1f;
    p = p * r + 0.5f;
    p = p * r * r + r + 1;
    int32_t half = (int32_t)n / 2, other = (int32_t)n - half; /* 2^n as two factors: the result may be denormal */
    union { uint32_t bits; float number; } a = {(uint32_t)(half + 127) << 23}, b = {(uint32_t)(other + 127) << 23};
    float found = p * a.number * b.number;
    return given > 88.72f ? INFINITY : given < -103.97f ? 0 : given != given ? given : found;
}

static inline float sigmoid(float z) {
    float e = exponential(z < 0 ? z : -z); /* at most 1 */
    return (z < 0 ? e : 1) / (1 + e);
}

static inline float normal_cdf(float z) { return (1 + erff(z * 0.707106781f)) / 2; }

static void activation_forward(const Network *net, const float *z, float *h, int64_t count) {
    switch (net->activation) {
        case RELU: for (int64_t i = 0; i < count; i++) h[i] = z[i] <= 0 ? 0 : z[i]; break;
        case LEAKY_RELU: for (int64_t i = 0; i < count; i++) h[i] = z[i] <= 0 ? net->leaky_slope * z[i] : z[i]; break;
        case SIGMOID: for (int64_t i = 0; i < count; i++) h[i] = sigmoid(z[i]); break;
        case TANH: for (int64_t i = 0; i < count; i++) h[i] = tanhf(z[i]); break;
        case GELU: for (int64_t i = 0; i < count; i++) h[i] = z[i] * normal_cdf(z[i]); break;
        case SILU: for (int64_t i = 0; i < count; i++) h[i] = z[i] * sigmoid(z[i]); break;
        default: memcpy(h, z, sizeof(float) * count);
    }
}

static void activation_backward(const Network *net, const float *z, const float *h, const float *d_h, float *d_z,
                                int64_t count) {
    switch (net->activation) {
        case RELU: for (int64_t i = 0; i < count; i++) d_z[i] = h[i] <= 0 ? 0 : d_h[i]; break;
        case LEAKY_RELU:
            for (int64_t i = 0; i < count; i++) d_z[i] = h[i] <= 0 ? net->leaky_slope * d_h[i] : d_h[i];
            break;
        case SIGMOID: for (int64_t i = 0; i < count; i++) d_z[i] = d_h[i] * (h[i] * (1 - h[i])); break;
        case TANH: for (int64_t i = 0; i < count; i++) d_z[i] = d_h[i] * (1 - h[i] * h[i]); break;
        case GELU:
            for (int64_t i = 0; i < count; i++)
                d_z[i] = d_h[i] * (normal_cdf(z[i]) + z[i] * (expf(-(z[i] * z[i]) / 2) * 0.398942280f));
            break;
        case SILU:
            for (int64_t i = 0; i < count; i++) {
                float s = sigmoid(z[i]);
                d_z[i] = d_h[i] * (s * (1 + z[i] * (1 - s)));
            }
            break;
        default: memcpy(d_z, d_h, sizeof(float) * count);
    }
}

/* Softmax and cross-entropy of one row of logits, as chainrule.losses.softmax_cross_entropy: its loss, and ds. */
static float cross_entropy(const Network *net, const float *s, int64_t classes, int64_t label, float upstream,
                           float *d_s) {
    float largest = s[0], total = 0, sum_u = 0, squares = 0, epsilon = net->label_smoothing;
    for (int64_t c = 1; c < classes; c++) largest = s[c] > largest ? s[c] : largest;
    for (int64_t c = 0; c < classes; c++) {
        float u = s[c] - largest;
        sum_u += u;
        squares += s[c] * s[c];
        total += d_s[c] = exponential(u);
    }
    for (int64_t c = 0; c < classes; c++) {
        float q = (c == label ? 1 - epsilon : 0) + epsilon / classes;
        d_s[c] = (d_s[c] / total - q + net->logit_penalty * s[c]) * upstream;
    }
    float target = (1 - epsilon) * (s[label] - largest) + epsilon * (sum_u / classes);
    float penalty = net->logit_penalty ? net->logit_penalty / 2 * squares : 0; /* of 0, squares may be infinite */
    return logf(total) - target + penalty;
}

/* ---- examples ---------------------------------------------------------------------------------------------------- */

/* Sum of an image's words, of 64 bits where it has whole ones: as lean_mnist.memory.row_sums. */
static uint64_t image_sum(const uint8_t *pixels, int64_t count) {
    uint64_t sum = 0;
    if (count % 8 == 0)
        for (int64_t k = 0; k < count; k += 8) {
            int64_t word;
            memcpy(&word, pixels + k, 8);
            sum += (uint64_t)word;
        }
    else if (count % 4 == 0)
        for (int64_t k = 0; k < count; k += 4) {
            int32_t word;
            memcpy(&word, pixels + k, 4);
            sum += (uint64_t)(int64_t)word;
        }
    else if (count % 2 == 0)
        for (int64_t k = 0; k < count; k += 2) {
            int16_t word;
            memcpy(&word, pixels + k, 2);
            sum += (uint64_t)(int64_t)word;
        }
    else
        for (int64_t k = 0; k < count; k++) sum += pixels[k];
    return sum;
}

/* Gather examples `begin` to `end` of the batch that starts at `position` of the order, and normalise their pixels.
   Returns whether all is as it was noted. */
static int gather(const Source *source, const Network *net, int64_t position, int64_t begin, int64_t end) {
    int64_t features = net->layers[0].inputs;
    for (int64_t i = begin; i < end; i++) {
        int64_t example = source->order[position + i];
        if (example < 0 || example >= source->count) return 0;
        if (source->noted && example != source->noted[position + i]) return 0;
        const uint8_t *pixels = source->images + example * features;
        float *restrict x = net->layers[0].h + i * features;
        int64_t later = position + i + source->batch_size; /* on their way while this batch is computed */
        if (later < source->remaining)
            for (int64_t j = 0; j < features; j += 64)
                __builtin_prefetch(source->images + source->order[later] * features + j);
        net->labels[i] = source->labels[example];
        if (source->noted) {
            uint64_t label = (uint64_t)net->labels[i] * source->label_factor;
            if (image_sum(pixels, features) + label != (uint64_t)source->image_sums[example]) return 0;
        }
        for (int64_t j = 0; j < features; j++) x[j] = ((float)pixels[j] - source->mean) / source->scale;
        if (source->clip < INFINITY)
            for (int64_t j = 0; j < features; j++)
                x[j] = x[j] > source->clip ? source->clip : x[j] < -source->clip ? -source->clip : x[j];
        if (source->noted) source->feature_sums[i] = row_sum(net, i);
    }
    return 1;
}

/* ---- the first layer --------------------------------------------------------------------------------------------- */

/* Most pixels of most images are one number, the background c. With 1 for a vector of ones,

       z = h W + b = (h - c) W + (b + c 1^T W),    dW = h^T dz = (h - c)^T dz + c 1 (1^T dz),

   where a tile leaves out the inputs, or the examples, that are c in all its rows. One where they are less than half is
   computed as it is written, so that the sum of what is left out is never large beside the product. Columns that fill
   no tile are as in any layer.                                                                                       */

static int64_t sparse_columns(const Network *net) { return net->layers[0].units / TILE_COLUMNS * TILE_COLUMNS; }

/* Sums of the first `summed` of the columns of `rows` rows, which are whole tiles. */
static void sum_columns(const float *rows_of, int64_t rows, int64_t columns, int64_t summed, float *sums) {
    for (int64_t j = 0; j < summed; j += TILE_COLUMNS) {
        vector sum[TILE_VECTORS] = {{0}};
        for (int64_t i = 0; i < rows;) {
            vector some[TILE_VECTORS] = {{0}};
            for (int64_t end = i + TERMS < rows ? i + TERMS : rows; i < end; i++)
                for (int v = 0; v < TILE_VECTORS; v++) some[v] += load(rows_of + i * columns + j + v * WIDTH);
            for (int v = 0; v < TILE_VECTORS; v++) sum[v] += some[v];
        }
        for (int v = 0; v < TILE_VECTORS; v++) store(sums + j + v * WIDTH, sum[v]);
    }
}

/* This thread's part of the sums of the first weight's columns, by blocks of rows. */
static void sum_weights(const Network *net, Team *team, int thread) {
    const Layer *layer = net->layers;
    int64_t begin, end, units = layer->units;
    part_of(layer->inputs, SUMMED_ROWS, thread, team->size, &begin, &end);
    for (int64_t k = begin; k < end; k += SUMMED_ROWS)
        sum_columns(layer->weight + k * units, end - k < SUMMED_ROWS ? end - k : SUMMED_ROWS, units,
                    sparse_columns(net), net->weight_sums + k / SUMMED_ROWS * units);
}

/* A bit for each of `count` numbers, 64 at most, that is not the background. */
static inline uint64_t other_than(float background, const float *x, int64_t count) {
    uint64_t bits = 0;
#ifdef __AVX512F__
    for (int64_t k = 0; k < count; k += 16) {
        __mmask16 there = count - k < 16 ? (__mmask16)((1u << (count - k)) - 1) : 0xffff;
        __m512 some = _mm512_maskz_loadu_ps(there, x + k);
        bits |= (uint64_t)_mm512_mask_cmp_ps_mask(there, some, _mm512_set1_ps(background), _CMP_NEQ_UQ) << k;
    }
#else
    uint8_t other[64] = {0};
    if (count >= 64)
        for (int k = 0; k < 64; k++) other[k] = x[k] != background;
    else
        for (int k = 0; k < count; k++) other[k] = x[k] != background;
    for (int k = 0; k < 64; k += 8) {
        uint64_t bytes;
        memcpy(&bytes, other + k, 8);
        bits |= (bytes * 0x0102040810204080) >> 56 << k;
    }
#endif
    return bits;
}

#ifdef __AVX512F__
/* Put first + k behind the `count` numbers of a list for each bit k; returns how many there are then. What stands
   behind them may change: sixteen numbers. */
static inline int64_t put_places(int32_t *list, int64_t count, __mmask16 bits, int64_t first) {
    __m512i places = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    places = _mm512_add_epi32(places, _mm512_set1_epi32((int)first));
    _mm512_storeu_si512(list + count, _mm512_maskz_compress_epi32(bits, places));
    return count + __builtin_popcount(bits);
}
#endif

/* Put the places of the bits of a word behind the `count` numbers of a list, as numbers from `first` on. */
static inline int64_t list_bits(uint64_t bits, int64_t first, int32_t *list, int64_t count) {
#ifdef __AVX512F__
    for (; bits; bits >>= 16, first += 16) count = put_places(list, count, (__mmask16)bits, first);
#else
    for (; bits; bits &= bits - 1) list[count++] = (int32_t)first + __builtin_ctzll(bits);
#endif
    return count;
}

/* The places of those of `count` words that have one of the `wanted` bits; returns how many they are. */
static inline int64_t list_words(const uint64_t *words, int64_t count, uint64_t wanted, int32_t *list) {
    int64_t listed = 0, k = 0;
#ifdef __AVX512F__
    for (__m512i all = _mm512_set1_epi64((long long)wanted); k + 16 <= count; k += 16) {
        __mmask8 low = _mm512_test_epi64_mask(_mm512_loadu_si512(words + k), all);
        __mmask8 high = _mm512_test_epi64_mask(_mm512_loadu_si512(words + k + 8), all);
        listed = put_places(list, listed, (__mmask16)(low | high << 8), k);
    }
#endif
    for (; k < count; k++) {
        list[listed] = (int32_t)k;
        listed += (words[k] & wanted) != 0;
    }
    return listed;
}

/* A bit for each input of row i that is not the background. */
static void mark(const Network *net, int64_t i) {
    int64_t inputs = net->layers[0].inputs;
    const float *x = net->layers[0].h + i * inputs;
    for (int64_t k = 0; k < inputs; k += 64)
        net->marks[k / 64 * net->examples + i] = other_than(net->background, x + k, inputs - k < 64 ? inputs - k : 64);
}

/* What a tile takes into account, of `all`: what is marked, beside a shift; or all of it, where that is most of it. */
static int64_t whole_list(int64_t count, int64_t all, int32_t *list, float *shift) {
    if (*shift == 0 || 2 * count <= all) return count;
    for (int64_t k = 0; k < all; k++) list[k] = (int32_t)k;
    *shift = 0;
    return all;
}

static void first_forward(const Network *net, int64_t begin, int64_t end, float *scratch) {
    const Layer *layer = net->layers;
    int64_t inputs = layer->inputs, units = layer->units, columns = sparse_columns(net);
    int32_t *list = (int32_t *)scratch;
    float *start = scratch + 2 * net->longest, *free = start + net->longest;
    vector unused = {0};
    for (int64_t j = 0; j < columns; j++) {
        float sum = 0;
        for (int64_t block = 0; block * SUMMED_ROWS < inputs; block++) sum += net->weight_sums[block * units + j];
        start[j] = (layer->bias ? layer->bias[j] : 0) + net->background * sum;
    }
    for (int64_t i = begin; i < end && columns; i += SPARSE_ROWS) {
        int64_t rows = end - i < SPARSE_ROWS ? end - i : SPARSE_ROWS, count = 0;
        for (int64_t row = i; row < i + rows; row++) mark(net, row);
        for (int64_t k = 0; k < inputs; k += 64) {
            uint64_t bits = 0;
            for (int64_t row = i; row < i + rows; row++) bits |= net->marks[k / 64 * net->examples + row];
            count = list_bits(bits, k, list, count);
        }
        float shift = net->background;
        count = whole_list(count, inputs, list, &shift);
        const float *from = shift == net->background ? start : layer->bias;
        for (int64_t j = 0; j < columns; j += TILE_COLUMNS)
            listed_tile(rows, count, list, shift, layer->h + i * inputs, inputs, 1, layer->weight + j, units,
                        from ? from + j : NULL, layer->z + i * units + j, &unused);
    }
    if (columns < units)
        product(end - begin, units - columns, inputs, layer->h + begin * inputs, inputs, 1, layer->weight + columns,
                units, 1, layer->bias ? layer->bias + columns : NULL, layer->z + begin * units + columns, units, free,
                &unused);
}

/* Rows `begin` to `end` of the gradient of the first weight. */
static void first_weight_gradient(const Network *net, int64_t begin, int64_t end, float *scratch, vector *zeros) {
    const Layer *layer = net->layers;
    int64_t inputs = layer->inputs, units = layer->units, columns = sparse_columns(net);
    int32_t *list = (int32_t *)scratch;
    float *start = scratch + 2 * net->longest, *free = start + net->longest;
    sum_columns(layer->d_z, net->examples, units, columns, start);
    for (int64_t j = 0; j < columns; j++) start[j] *= net->background;
    for (int64_t k = begin; k < end && columns; k += SPARSE_ROWS) {
        int64_t rows = end - k < SPARSE_ROWS ? end - k : SPARSE_ROWS;
        const uint64_t *words = net->marks + k / 64 * net->examples;
        int64_t count = list_words(words, net->examples, (uint64_t)15 << k % 64, list);
        float shift = net->background;
        count = whole_list(count, net->examples, list, &shift);
        for (int64_t j = 0; j < columns; j += TILE_COLUMNS)
            listed_tile(rows, count, list, shift, layer->h + k, 1, inputs, layer->d_z + j, units,
                        shift == net->background ? start + j : NULL, layer->d_weight + k * units + j, zeros);
    }
    if (columns < units)
        product(end - begin, units - columns, net->examples, layer->h + begin, 1, inputs, layer->d_z + columns, units, 1,
                NULL, layer->d_weight + begin * units + columns, units, free, zeros);
}

/* ---- a step ------------------------------------------------------------------------------------------------------ */

/* Forward and the gradients of pre-activations and inputs, of rows `begin` to `end`; no row needs another. */
static void rows_forward_and_backward(const Network *net, int64_t begin, int64_t end, float *scratch) {
    int64_t rows = end - begin, depth = net->depth, classes = net->layers[depth - 1].units;
    vector unused = {0};
    for (int64_t l = 0; l < depth; l++) {
        const Layer *layer = net->layers + l;
        float *z = layer->z + begin * layer->units;
        if (l == 0) first_forward(net, begin, end, scratch);
        else
            product(rows, layer->units, layer->inputs, layer->h + begin * layer->inputs, layer->inputs, 1,
                    layer->weight, layer->units, 1, layer->bias, z, layer->units, scratch, &unused);
        if (l + 1 < depth)
            activation_forward(net, z, net->layers[l + 1].h + begin * layer->units, rows * layer->units);
    }
    const Layer *last = net->layers + depth - 1;
    for (int64_t i = begin; i < end; i++)
        net->loss[i] = cross_entropy(net, last->z + i * classes, classes, net->labels[i], 1.0f / net->examples,
                                     last->d_z + i * classes);
    for (int64_t l = depth - 1; l > 0; l--) {
        const Layer *layer = net->layers + l, *below = layer - 1;
        float *d_h = layer->d_h + begin * layer->inputs;
        product(rows, layer->inputs, layer->units, layer->d_z + begin * layer->units, layer->units, 1, layer->weight, 1,
                layer->units, NULL, d_h, layer->inputs, scratch, &unused);
        activation_backward(net, below->z + begin * below->units, layer->h + begin * layer->inputs, d_h,
                            below->d_z + begin * below->units, rows * layer->inputs);
    }
}

/* This thread's part of dW = h^T dz and db = sum dz of every layer; returns whether all of it is finite. */
static int weight_gradients(const Network *net, Team *team, int thread, float *scratch) {
    vector zeros = {0};
    float bias_zeros = 0;
    for (int64_t l = 0; l < net->depth; l++) {
        const Layer *layer = net->layers + l;
        int64_t begin, end, units = layer->units;
        gradient_rows(net, l, team, thread, &begin, &end);
        if (l == 0) first_weight_gradient(net, begin, end, scratch, &zeros);
        else
            product(end - begin, units, net->examples, layer->h + begin, 1, layer->inputs, layer->d_z, units, 1, NULL,
                    layer->d_weight + begin * units, units, scratch, &zeros);
        if (!layer->bias) continue;
        part_of(units, WIDTH, thread, team->size, &begin, &end);
        for (int64_t j = begin; j < end; j++) layer->d_bias[j] = 0;
        for (int64_t i = 0; i < net->examples;) {
            for (int64_t j = begin; j < end; j++) scratch[j] = 0;
            for (int64_t last = i + TERMS < net->examples ? i + TERMS : net->examples; i < last; i++)
                for (int64_t j = begin; j < end; j++) scratch[j] += layer->d_z[i * units + j];
            for (int64_t j = begin; j < end; j++) layer->d_bias[j] += scratch[j];
        }
        for (int64_t j = begin; j < end; j++) bias_zeros += layer->d_bias[j] * 0;
    }
    return sum_of(zeros) == 0 && bias_zeros == 0;
}

/* Sum of the squares of up to BLOCK numbers. */
static double squares_of(const float *p, int64_t count) {
    vector sum = {0};
    double rest = 0;
    int64_t k = 0;
    for (; k + WIDTH <= count; k += WIDTH) sum += load(p + k) * load(p + k);
    for (; k < count; k++) rest += (double)p[k] * p[k];
    return rest + sum_of(sum);
}

/* The factor that brings the whole gradient to the norm `clip_norm`, where it is longer; the same on every thread. */
static float clip_factor(const Update *update, Team *team, int thread) {
    int64_t blocks = blocks_of(update), begin, end;
    part_of(blocks, 1, thread, team->size, &begin, &end);
    for (int64_t block = begin; block < end; block++) {
        int64_t count = update->size - block * BLOCK < BLOCK ? update->size - block * BLOCK : BLOCK;
        update->squares[block] = squares_of(update->gradient + block * BLOCK, count);
    }
    meet(team);
    double squares = 0;
    for (int64_t block = 0; block < blocks; block++) squares += update->squares[block];
    float factor = update->clip_norm / ((float)sqrt(squares) + 1e-6f);
    return factor < 1 ? factor : 1;
}

static inline uint32_t bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

/* g = factor g + decay p; v = momentum v + g; p -= rate v, or with Nesterov's momentum rate (g + momentum v). `sums`
   are those of the words of p and v. */
static void apply_range(const Update *update, float rate, float factor, int64_t begin, int64_t end, uint32_t sums[2]) {
    float *restrict p = update->parameters, *restrict m = update->momentum;
    const float *restrict gradient = update->gradient;
    float mu = update->momentum_factor, decay = update->weight_decay;
    uint32_t of_p = 0, of_v = 0;
    if (!m)
        for (int64_t k = begin; k < end; k++) of_p += bits_of(p[k] -= rate * (factor * gradient[k] + decay * p[k]));
    else if (update->nesterov)
        for (int64_t k = begin; k < end; k++) {
            float g = factor * gradient[k] + decay * p[k], v = mu * m[k] + g;
            of_v += bits_of(m[k] = v);
            of_p += bits_of(p[k] -= rate * (g + mu * v));
        }
    else
        for (int64_t k = begin; k < end; k++) {
            float v = mu * m[k] + (factor * gradient[k] + decay * p[k]);
            of_v += bits_of(m[k] = v);
            of_p += bits_of(p[k] -= rate * v);
        }
    sums[0] = of_p;
    sums[1] = of_v;
}

/* This thread's part of the update, which leaves the sums of what it has written. */
static void apply(const Update *update, float rate, float factor, Team *team, int thread) {
    int64_t begin, end, blocks = blocks_of(update);
    part_of(blocks, 1, thread, team->size, &begin, &end);
    for (int64_t block = begin; block < end; block++) {
        int64_t last = (block + 1) * BLOCK < update->size ? (block + 1) * BLOCK : update->size;
        uint32_t sums[2];
        apply_range(update, rate, factor, block * BLOCK, last, sums);
        if (!update->sums) continue;
        update->sums[block] = sums[0];
        if (update->momentum) update->sums[blocks + block] = sums[1];
    }
}

/* What every thread of a team does of `work`. */
static void take_steps(Work *work, Team *team, int thread) {
    Network *net = work->network;
    float *scratch = net->scratch + thread * net->longest * SCRATCH;
    int64_t position = 0, examples = net->examples, classes = net->layers[net->depth - 1].units;
    double started = now();
    for (int64_t step = 0; step < work->steps; step++) {
        int64_t begin, end;
        if (work->source) {
            int64_t left = work->source->remaining - position;
            examples = left < work->source->batch_size ? left : work->source->batch_size;
            if (thread == 0) net->examples = examples;
        }
        sum_weights(net, team, thread);
        meet(team);
        part_of(examples, SPARSE_ROWS, thread, team->size, &begin, &end);
        int bad = work->source && !gather(work->source, net, position, begin, end);
        for (int64_t i = begin; i < end && !bad; i++) bad = net->labels[i] < 0 || net->labels[i] >= classes;
        if (bad) work->status = BAD_BATCH;
        else rows_forward_and_backward(net, begin, end, scratch);
        meet(team);
        if (work->status == BAD_BATCH) break;
        work->finite[thread] = weight_gradients(net, team, thread, scratch);
        look(work, step, OWN_ROWS, team, thread);
        meet(team);
        double loss = 0;
        int finite = 1;
        for (int64_t i = 0; i < examples; i++) loss += net->loss[i];
        loss /= examples;
        for (int t = 0; t < team->size; t++) finite &= work->finite[t] != 0;
        if (thread == 0) work->losses[step] = loss;
        if (!work->update) {
            if (thread == 0) work->taken = step + 1;
            break;
        }
        if (!(finite && isfinite(loss))) {
            if (thread == 0) work->status = NOT_FINITE;
            break;
        }
        if (!(look(work, step, WHOLE_STEP, team, thread) <= 1)) { /* the same on every thread */
            if (thread == 0) work->status = STOOD_OUT;
            break;
        }
        if (work->hold && step == work->steps - 1) {
            if (thread == 0) work->status = HELD;
            break;
        }
        float factor = work->update->clip_norm < INFINITY ? clip_factor(work->update, team, thread) : 1;
        apply(work->update, work->rates[step], factor, team, thread);
        if (thread == 0) {
            work->taken = step + 1;
            if (now() - started > work->seconds) work->steps = work->taken;
        }
        position += examples;
        meet(team);
    }
}

/* ---- the team ---------------------------------------------------------------------------------------------------- */

typedef struct Crew Crew;
typedef struct {
    Crew *crew;
    int number;
    pthread_t thread;
} Helper;
struct Crew { /* a team's threads, which sleep between two calls */
    Team team;
    Helper *helpers;
    int count;
    pthread_mutex_t mutex;
    pthread_cond_t wake, done;
    int64_t call;
    int working, ending;
    Work *work;
    int caller; /* the processor that it ran on when the helpers were last kept off it */
};

static void *help(void *argument) {
    Helper *self = argument;
    Crew *crew = self->crew;
    int64_t seen = 0;
    pthread_mutex_lock(&crew->mutex);
    for (;;) {
        while (crew->call == seen && !crew->ending) pthread_cond_wait(&crew->wake, &crew->mutex);
        if (crew->ending) break;
        seen = crew->call;
        if (self->number >= crew->team.size) continue;
        pthread_mutex_unlock(&crew->mutex);
        take_steps(crew->work, &crew->team, self->number);
        pthread_mutex_lock(&crew->mutex);
        if (--crew->working == 0) pthread_cond_signal(&crew->done);
    }
    pthread_mutex_unlock(&crew->mutex);
    return NULL;
}

/* Keep the helpers off the processor of the caller, where a scheduler may wake them: there they would take turns. */
static void keep_apart(Crew *crew) {
#ifdef __linux__
    int caller = sched_getcpu();
    cpu_set_t others;
    if (caller < 0 || caller == crew->caller || sched_getaffinity(0, sizeof others, &others)) return;
    crew->caller = caller;
    CPU_CLR(caller, &others);
    for (int i = 0; i < crew->count && CPU_COUNT(&others); i++)
        pthread_setaffinity_np(crew->helpers[i].thread, sizeof others, &others);
#else
    (void)crew;
#endif
}

/* Threads for up to `size` at a time, the caller's own among them; NULL where they cannot be had. */
Crew *crew_new(int64_t size) {
    Crew *crew = calloc(1, sizeof *crew);
    if (!crew) return NULL;
    crew->helpers = calloc(size, sizeof *crew->helpers);
    crew->caller = -1;
    pthread_mutex_init(&crew->mutex, NULL);
    pthread_cond_init(&crew->wake, NULL);
    pthread_cond_init(&crew->done, NULL);
    for (int64_t i = 1; i < size && crew->helpers; i++) {
        Helper *helper = crew->helpers + crew->count;
        helper->crew = crew;
        helper->number = (int)i;
        if (pthread_create(&helper->thread, NULL, help, helper)) break;
        crew->count++;
    }
    return crew;
}

/* End its threads. */
void crew_end(Crew *crew) {
    pthread_mutex_lock(&crew->mutex);
    crew->ending = 1;
    pthread_cond_broadcast(&crew->wake);
    pthread_mutex_unlock(&crew->mutex);
    for (int i = 0; i < crew->count; i++) pthread_join(crew->helpers[i].thread, NULL);
    free(crew->helpers);
    free(crew);
}

/* Do `work` with `threads` threads, or as many as there are. */
void crew_take_steps(Crew *crew, Work *work, int64_t threads) {
    work->taken = 0;
    work->status = DONE;
    work->screen_seconds = 0;
    crew->team.size = threads < crew->count + 1 ? (int)threads : crew->count + 1;
    if (crew->team.size > 1) {
        keep_apart(crew);
        pthread_mutex_lock(&crew->mutex);
        crew->work = work;
        crew->working = crew->team.size - 1;
        crew->call++;
        pthread_cond_broadcast(&crew->wake);
        pthread_mutex_unlock(&crew->mutex);
    }
    take_steps(work, &crew->team, 0);
    if (crew->team.size > 1) {
        pthread_mutex_lock(&crew->mutex);
        while (crew->working) pthread_cond_wait(&crew->done, &crew->mutex);
        pthread_mutex_unlock(&crew->mutex);
    }
}

/* One update, by the caller alone. */
void apply_update(const Update *update, float rate) {
    Team alone = {.size = 1};
    apply(update, rate, update->clip_norm < INFINITY ? clip_factor(update, &alone, 0) : 1, &alone, 0);
}

/* Leave the sums of parameters and momentum as they are now. */
void note_sums(const Update *update) {
    int64_t blocks = blocks_of(update);
    for (int64_t block = 0; block < blocks; block++) {
        update->sums[block] = block_sum(update, update->parameters, block);
        if (update->momentum) update->sums[blocks + block] = block_sum(update, update->momentum, block);
    }
}

/* The first block of parameters, or of momentum after them, that has another sum than was left; -1 if none has. */
int64_t changed_block(const Update *update) {
    int64_t blocks = blocks_of(update);
    for (int64_t block = 0; block < (update->momentum ? 2 : 1) * blocks; block++) {
        const float *values = block < blocks ? update->parameters : update->momentum;
        if (update->sums[block] != block_sum(update, values, block % blocks)) return block;
    }
    return -1;
}

static double norm_of(const float *p, int64_t count) {
    double squares = 0;
    for (int64_t k = 0; k < count; k += BLOCK) squares += squares_of(p + k, count - k < BLOCK ? count - k : BLOCK);
    return sqrt(squares);
}

/* The norms of each layer's weight, its gradient, bias and its gradient; of a bias that is not there, 0. */
void norms(const Network *net, double *found) {
    for (const Layer *layer = net->layers; layer < net->layers + net->depth; layer++) {
        *found++ = norm_of(layer->weight, layer->inputs * layer->units);
        *found++ = norm_of(layer->d_weight, layer->inputs * layer->units);
        *found++ = layer->bias ? norm_of(layer->bias, layer->units) : 0;
        *found++ = layer->bias ? norm_of(layer->d_bias, layer->units) : 0;
    }
}

/* Screen the step that stands in the tape, by the caller alone. */
double screen_once(Screen screen, void *state, const Network *net, const Update *update) {
    Team alone = {.size = 1};
    screen(state, net, update, 0, OWN_ROWS, &alone, 0);
    return screen(state, net, update, 0, WHOLE_STEP, &alone, 0);
}

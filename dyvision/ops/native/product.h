/* Sums of products in registers: some output channels by some vectors of pixels, over a block of input channels. */

struct product {
    int64_t channels, taps, plane;
    const int32_t *tap_offset;
    int64_t weight_stride;              /* floats from one output channel's weights to the next's */
    int64_t start[DYV_MOST_VECTORS];    /* of the vectors, in the planes of the first channel */
    int64_t offset[DYV_MOST_VECTORS];   /* of the vectors in a row of the sums */
    int64_t sums_stride;
    int first, last;                    /* whether the sums begin, end here */
    int64_t activation;
    const float *ahead;                 /* weights of the next block in the bank, for the first of the rows */
    int64_t kernels_ahead, ahead_kernels, ahead_rows; /* K or 0, and floats from one kernel and row to the next */
};

/* Ask for a part of the next block: memory works while this one is computed. */
INLINE void fetch_ahead(const struct product *p, int rows, int64_t place) {
    const float *from = p->ahead + place;
    for (int64_t k = 0; k < p->kernels_ahead; k++, from += p->ahead_kernels)
        for (int r = 0; r < rows; r++) __builtin_prefetch(from + r * p->ahead_rows, 0, 2);
}

INLINE void multiply(
    const int rows, const int vectors, const int one_tap, const struct product *p,
    const float *restrict weights, const float *restrict planes, const float *bias, float *restrict sums
) {
    vec sum[DYV_MOST_ROWS][DYV_MOST_VECTORS], x[DYV_MOST_VECTORS];
    const float *weight[DYV_MOST_ROWS];
    const float *start[DYV_MOST_VECTORS];
#pragma GCC unroll 8
    for (int v = 0; v < vectors; v++) start[v] = planes + p->start[v];
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++) {
        weight[r] = weights + r * p->weight_stride;
#pragma GCC unroll 8
        for (int v = 0; v < vectors; v++)
            sum[r][v] = p->first ? (vec){0} : load(sums + r * p->sums_stride + p->offset[v]);
    }
    const int64_t taps = one_tap ? 1 : p->taps;
    int64_t place = 0, of_weight = 0;
    for (int64_t channel = 0; channel < p->channels; channel++, place += p->plane) {
        if (p->kernels_ahead && (!one_tap || channel % 16 == 0)) fetch_ahead(p, rows, of_weight);
        for (int64_t tap = 0; tap < taps; tap++, of_weight++) {
            const int64_t at = one_tap ? place : place + p->tap_offset[tap];
#pragma GCC unroll 8
            for (int v = 0; v < vectors; v++) x[v] = load(start[v] + at);
#pragma GCC unroll 8
            for (int r = 0; r < rows; r++) {
                const float w = weight[r][of_weight];
#pragma GCC unroll 8
                for (int v = 0; v < vectors; v++) sum[r][v] += w * x[v];
            }
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++) {
#pragma GCC unroll 8
        for (int v = 0; v < vectors; v++) {
            vec value = sum[r][v];
            if (p->last) value = activate(bias ? value + bias[r] : value, p->activation);
            store(sums + r * p->sums_stride + p->offset[v], value);
        }
    }
}

typedef void (*multiply_function)(
    const struct product *, const float *, const float *, const float *, float *
);

#define MULTIPLY(ROWS, VECTORS)                                                                                  \
    static void multiply_##ROWS##_##VECTORS(                                                                     \
        const struct product *p, const float *weights, const float *planes, const float *bias, float *sums       \
    ) {                                                                                                          \
        if (p->taps == 1)                                                                                        \
            multiply(ROWS, VECTORS, 1, p, weights, planes, bias, sums);                                          \
        else                                                                                                     \
            multiply(ROWS, VECTORS, 0, p, weights, planes, bias, sums);                                          \
    }

#if DYV_MOST_VECTORS == 2
#define FOR_VECTORS(R) MULTIPLY(R, 1) MULTIPLY(R, 2)
#define NAMES(R) {multiply_##R##_1, multiply_##R##_2}
#elif DYV_MOST_VECTORS == 3
#define FOR_VECTORS(R) MULTIPLY(R, 1) MULTIPLY(R, 2) MULTIPLY(R, 3)
#define NAMES(R) {multiply_##R##_1, multiply_##R##_2, multiply_##R##_3}
#elif DYV_MOST_VECTORS == 4
#define FOR_VECTORS(R) MULTIPLY(R, 1) MULTIPLY(R, 2) MULTIPLY(R, 3) MULTIPLY(R, 4)
#define NAMES(R) {multiply_##R##_1, multiply_##R##_2, multiply_##R##_3, multiply_##R##_4}
#endif

FOR_VECTORS(1)
FOR_VECTORS(2)
FOR_VECTORS(3)
FOR_VECTORS(4)
FOR_VECTORS(5)
FOR_VECTORS(6)
#if DYV_MOST_ROWS == 6
static const multiply_function multiplications[6][DYV_MOST_VECTORS] = {
    NAMES(1), NAMES(2), NAMES(3), NAMES(4), NAMES(5), NAMES(6)
};
#elif DYV_MOST_ROWS == 8
FOR_VECTORS(7)
FOR_VECTORS(8)
static const multiply_function multiplications[8][DYV_MOST_VECTORS] = {
    NAMES(1), NAMES(2), NAMES(3), NAMES(4), NAMES(5), NAMES(6), NAMES(7), NAMES(8)
};
#endif

/* Rows of [rows, depth], at most DYV_MOST_ROWS, by a matrix [depth, columns] with `pitch` floats from row to row. */
static void multiply_matrix(
    int64_t rows, int64_t depth, int64_t columns, int64_t pitch, const float *left, const float *right, float *to
) {
    if (columns < DYV_LANES) {
        for (int64_t r = 0; r < rows; r++)
            for (int64_t c = 0; c < columns; c++) {
                float sum = 0.0f;
                for (int64_t d = 0; d < depth; d++) sum += left[r * depth + d] * right[d * pitch + c];
                to[r * columns + c] = sum;
            }
        return;
    }
    struct product product = {
        .channels = depth, .taps = 1, .plane = pitch, .sums_stride = columns, .weight_stride = depth, .first = 1,
    };
    const int64_t vectors = (columns + DYV_LANES - 1) / DYV_LANES;
    for (int64_t v = 0; v < vectors; v += DYV_MOST_VECTORS) {
        const int64_t wide = smaller(vectors - v, DYV_MOST_VECTORS);
        /* the last one repeats some columns: nothing beyond a row is read or written */
        for (int64_t i = 0; i < wide; i++)
            product.start[i] = product.offset[i] = smaller((v + i) * DYV_LANES, columns - DYV_LANES);
        multiplications[rows - 1][wide - 1](&product, left, right, NULL, to);
    }
}

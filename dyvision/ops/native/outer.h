/* Sums of outer products in registers: rows that are broadcast by vectors, over any number of steps; and transposing. */

/* Rows of the largest tile of sums for one, two, ... vectors. */
#if DYV_MOST_VECTORS == 4
#define OUTER_ROWS {16, 12, 8, 6}
#else
#define OUTER_ROWS {8, 6}
#endif

/* to[r][v] = or += sum over q of a[r * a_row + q * a_step] * b[q * b_step][v] */
struct outer {
    int64_t a_row, a_step, b_step, to_row, steps;
    int add;
};

INLINE void sum_outer(
    const int rows, const int vectors, const struct outer *o, const float *restrict a, const float *restrict b,
    float *restrict to
) {
    vec sum[16][4], x[4];
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++) {
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) sum[r][v] = o->add ? load(to + r * o->to_row + v * DYV_LANES) : (vec){0};
    }
    for (int64_t q = 0; q < o->steps; q++, a += o->a_step, b += o->b_step) {
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) x[v] = load(b + v * DYV_LANES);
#pragma GCC unroll 16
        for (int r = 0; r < rows; r++) {
            const float w = a[r * o->a_row];
#pragma GCC unroll 4
            for (int v = 0; v < vectors; v++) sum[r][v] += w * x[v];
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++) {
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) store(to + r * o->to_row + v * DYV_LANES, sum[r][v]);
    }
}

typedef void (*outer_function)(const struct outer *, const float *, const float *, float *);

#define OUTER(ROWS, VECTORS)                                                                                     \
    static void outer_##ROWS##_##VECTORS(const struct outer *o, const float *a, const float *b, float *to) {     \
        sum_outer(ROWS, VECTORS, o, a, b, to);                                                                   \
    }

OUTER(1, 1) OUTER(2, 1) OUTER(3, 1) OUTER(4, 1) OUTER(5, 1) OUTER(6, 1) OUTER(7, 1) OUTER(8, 1)
OUTER(1, 2) OUTER(2, 2) OUTER(3, 2) OUTER(4, 2) OUTER(5, 2) OUTER(6, 2)
#if DYV_MOST_VECTORS == 4
OUTER(9, 1) OUTER(10, 1) OUTER(11, 1) OUTER(12, 1) OUTER(13, 1) OUTER(14, 1) OUTER(15, 1) OUTER(16, 1)
OUTER(7, 2) OUTER(8, 2) OUTER(9, 2) OUTER(10, 2) OUTER(11, 2) OUTER(12, 2)
OUTER(1, 3) OUTER(2, 3) OUTER(3, 3) OUTER(4, 3) OUTER(5, 3) OUTER(6, 3) OUTER(7, 3) OUTER(8, 3)
OUTER(1, 4) OUTER(2, 4) OUTER(3, 4) OUTER(4, 4) OUTER(5, 4) OUTER(6, 4)
static const outer_function outers[4][16] = {
    {outer_1_1, outer_2_1, outer_3_1, outer_4_1, outer_5_1, outer_6_1, outer_7_1, outer_8_1, outer_9_1, outer_10_1,
     outer_11_1, outer_12_1, outer_13_1, outer_14_1, outer_15_1, outer_16_1},
    {outer_1_2, outer_2_2, outer_3_2, outer_4_2, outer_5_2, outer_6_2, outer_7_2, outer_8_2, outer_9_2, outer_10_2,
     outer_11_2, outer_12_2},
    {outer_1_3, outer_2_3, outer_3_3, outer_4_3, outer_5_3, outer_6_3, outer_7_3, outer_8_3},
    {outer_1_4, outer_2_4, outer_3_4, outer_4_4, outer_5_4, outer_6_4},
};
#else
static const outer_function outers[2][8] = {
    {outer_1_1, outer_2_1, outer_3_1, outer_4_1, outer_5_1, outer_6_1, outer_7_1, outer_8_1},
    {outer_1_2, outer_2_2, outer_3_2, outer_4_2, outer_5_2, outer_6_2},
};
#endif

/* Any numbers of rows and of vectors: tiles of nearly equal heights. */
static void multiply_outer(
    const struct outer *o, int64_t rows, int64_t vectors, const float *a, const float *b, float *to
) {
    static const int most[] = OUTER_ROWS;
    for (int64_t v = 0; v < vectors; v += DYV_MOST_VECTORS) {
        const int64_t wide = smaller(vectors - v, DYV_MOST_VECTORS);
        const int64_t tiles = (rows + most[wide - 1] - 1) / most[wide - 1];
        for (int64_t tile = 0; tile < tiles; tile++) {
            const int64_t first = rows * tile / tiles, high = rows * (tile + 1) / tiles - first;
            outers[wide - 1][high - 1](
                o, a + first * o->a_row, b + v * DYV_LANES, to + first * o->to_row + v * DYV_LANES
            );
        }
    }
}

#if defined(__clang__) || __GNUC__ >= 12
#define MIX4(a, b, i, j, k, l) __builtin_shufflevector(a, b, i, j, k, l)
INLINE void transpose_block(const float *restrict from, int64_t stride, float *restrict to, int64_t to_stride) {
    const four a = *(const four *)from, b = *(const four *)(from + stride);
    const four c = *(const four *)(from + 2 * stride), d = *(const four *)(from + 3 * stride);
    const four ab = MIX4(a, b, 0, 4, 1, 5), AB = MIX4(a, b, 2, 6, 3, 7);
    const four cd = MIX4(c, d, 0, 4, 1, 5), CD = MIX4(c, d, 2, 6, 3, 7);
    *(four *)to = MIX4(ab, cd, 0, 1, 4, 5), *(four *)(to + to_stride) = MIX4(ab, cd, 2, 3, 6, 7);
    *(four *)(to + 2 * to_stride) = MIX4(AB, CD, 0, 1, 4, 5);
    *(four *)(to + 3 * to_stride) = MIX4(AB, CD, 2, 3, 6, 7);
}
#else
INLINE void transpose_block(const float *restrict from, int64_t stride, float *restrict to, int64_t to_stride) {
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 4; j++) to[j * to_stride + i] = from[i * stride + j];
}
#endif

/* to[c][r] = from[r][c] */
static void transpose(
    const float *restrict from, int64_t stride, int64_t rows, int64_t columns, float *restrict to, int64_t to_stride
) {
    int64_t c = 0;
    for (; c + 4 <= columns; c += 4) {
        int64_t r = 0;
        for (; r + 4 <= rows; r += 4)
            transpose_block(from + r * stride + c, stride, to + c * to_stride + r, to_stride);
        for (; r < rows; r++)
            for (int64_t j = c; j < c + 4; j++) to[j * to_stride + r] = from[r * stride + j];
    }
    for (; c < columns; c++)
        for (int64_t r = 0; r < rows; r++) to[c * to_stride + r] = from[r * stride + c];
}

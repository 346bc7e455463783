/* Sums along rows: what matrix products of a few columns are made of. */

INLINE float sum_lanes(vec value) {
    float lanes[DYV_LANES];
    store(lanes, value);
#if DYV_LANES == 16
    *(eight *)lanes += *(eight *)(lanes + 8);
#endif
#if DYV_LANES >= 8
    *(four *)lanes += *(four *)(lanes + 4);
#endif
    return (lanes[0] + lanes[1]) + (lanes[2] + lanes[3]);
}

/* Some rows by some columns, as many sums as are computed at a time: one would wait for itself. */
INLINE void sum_rows_by(
    const int rows, const int columns, const float *restrict weights, int64_t weight_stride,
    const float *restrict from, int64_t from_stride, int64_t count, float sums[4][4]
) {
    vec sum[4][4];
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int c = 0; c < columns; c++) sum[r][c] = (vec){0};
    int64_t i = 0;
    for (; i + DYV_LANES <= count; i += DYV_LANES)
#pragma GCC unroll 4
        for (int r = 0; r < rows; r++) {
            const vec row = load(weights + r * weight_stride + i);
#pragma GCC unroll 4
            for (int c = 0; c < columns; c++) sum[r][c] += row * load(from + c * from_stride + i);
        }
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int c = 0; c < columns; c++) sums[r][c] = sum_lanes(sum[r][c]);
    for (; i < count; i++)
#pragma GCC unroll 4
        for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
            for (int c = 0; c < columns; c++) sums[r][c] += weights[r * weight_stride + i] * from[c * from_stride + i];
}

/* Four rows or one by at most so many columns: how many columns that were, four or one. */
static int64_t sum_rows(
    int64_t rows, int64_t columns, const float *weights, int64_t weight_stride, const float *from, int64_t from_stride,
    int64_t count, float sums[4][4]
) {
    if (rows == 4 && columns >= 4)
        sum_rows_by(4, 4, weights, weight_stride, from, from_stride, count, sums);
    else if (rows == 4)
        sum_rows_by(4, 1, weights, weight_stride, from, from_stride, count, sums);
    else if (columns >= 4)
        sum_rows_by(1, 4, weights, weight_stride, from, from_stride, count, sums);
    else
        sum_rows_by(1, 1, weights, weight_stride, from, from_stride, count, sums);
    return columns >= 4 ? 4 : 1;
}

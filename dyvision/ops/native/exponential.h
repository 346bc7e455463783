/* Exponentials in vectors: what softmax and sigmoid are made of. */
#include <math.h>

/* e^x within 2 units of the last place; 0 below -87, infinity above 88, NaN for NaN. */
INLINE vec exponential(vec x) {
    const vec_mask high = (vec_mask)(x > 88.0f), lost = (vec_mask)(x != x);
    const vec_mask known = (vec_mask)(x < -87.0f) | high | lost;
    const vec inside = (vec)((vec_mask)x & ~known);
    /* x = n ln 2 + r, |r| <= ln 2 / 2; ln 2 in two parts, of which the first times n is exact */
    const vec quotient = inside * 1.44269504f, zero = {0};
    const vec half = (vec)((vec_mask)(zero + 0.5f) | ((vec_mask)quotient & INT32_MIN)); /* its sign */
    const vec_mask n = __builtin_convertvector(quotient + half, vec_mask);
    const vec whole = __builtin_convertvector(n, vec);
    const vec r = (inside - whole * 0.693359375f) + whole * 2.12194440e-4f;
    /* the series of e^r to the seventh power: its next term is below 6e-9 */
    vec sum = r * (1.0f / 5040.0f) + (1.0f / 720.0f);
    sum = sum * r + (1.0f / 120.0f);
    sum = sum * r + (1.0f / 24.0f);
    sum = sum * r + (1.0f / 6.0f);
    sum = sum * r + 0.5f;
    sum = sum * r + 1.0f;
    sum = sum * r + 1.0f;
    const vec value = sum * (vec)((n + 127) << 23);
    return (vec)(((vec_mask)value & ~known) | ((vec_mask)(zero + INFINITY) & high) | ((vec_mask)x & lost));
}

INLINE vec sigmoid_of(vec x) { return 1.0f / (1.0f + exponential(-x)); }

/* In place; the last vector is padded with zeros. */
static void apply_sigmoid(float *numbers, int64_t count) {
    int64_t at = 0;
    for (; at + DYV_LANES <= count; at += DYV_LANES) store(numbers + at, sigmoid_of(load(numbers + at)));
    if (at == count) return;
    float last[DYV_LANES] = {0};
    for (int64_t i = at; i < count; i++) last[i - at] = numbers[i];
    store(last, sigmoid_of(load(last)));
    for (int64_t i = at; i < count; i++) numbers[i] = last[i - at];
}

static void apply_softmax(float *numbers, int64_t count) {
    float largest = numbers[0], sum = 0.0f;
    for (int64_t i = 1; i < count; i++)
        if (numbers[i] > largest) largest = numbers[i];
    for (int64_t at = 0; at < count; at += DYV_LANES) {
        const int64_t some = smaller(count - at, DYV_LANES);
        float part[DYV_LANES] = {0};
        for (int64_t i = 0; i < some; i++) part[i] = numbers[at + i] - largest;
        store(part, exponential(load(part)));
        for (int64_t i = 0; i < some; i++) sum += numbers[at + i] = part[i];
    }
    for (int64_t i = 0; i < count; i++) numbers[i] /= sum;
}

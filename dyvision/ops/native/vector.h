/* Vectors of one instruction set, by GCC's and clang's vector extensions: the same source for all of them. */
#include <stdint.h>
#include <string.h>

#include "problem.h"

/* The including file defines DYV_LANES (floats of a vector), and the tile of sums that fits into the registers:
 * DYV_MOST_ROWS output channels by DYV_MOST_VECTORS vectors of pixels. */
typedef float vec __attribute__((vector_size(4 * DYV_LANES)));
typedef int32_t vec_mask __attribute__((vector_size(4 * DYV_LANES)));
typedef float vec_anywhere __attribute__((vector_size(4 * DYV_LANES), aligned(4), may_alias));

#define INLINE static inline __attribute__((always_inline))

INLINE vec load(const float *from) { return *(const vec_anywhere *)from; }

INLINE void store(float *to, vec value) { *(vec_anywhere *)to = value; }

INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

/* NaN stays, as in torch: it is in neither comparison. */
INLINE vec activate(vec value, int64_t activation) {
    if (activation == DYV_NO_ACTIVATION) return value;
    value = (vec)((vec_mask)value & ~(vec_mask)(value < 0.0f));
    if (activation == DYV_RELU) return value;
    vec six = (vec){0} + 6.0f;
    vec_mask above = (vec_mask)(value > 6.0f);
    return (vec)(((vec_mask)six & above) | ((vec_mask)value & ~above));
}

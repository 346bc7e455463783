/* Rows of a few floats, too short for calls of memcpy: the last vector repeats some of the one before. */

typedef float four __attribute__((vector_size(16), aligned(4), may_alias));
typedef float eight __attribute__((vector_size(32), aligned(4), may_alias));

INLINE void copy(float *restrict to, const float *restrict from, int64_t count) {
    if (count >= DYV_LANES) {
        for (int64_t i = 0; i + DYV_LANES < count; i += DYV_LANES) store(to + i, load(from + i));
        store(to + count - DYV_LANES, load(from + count - DYV_LANES));
    } else if (DYV_LANES > 8 && count >= 8) {
        *(eight *)to = *(const eight *)from;
        *(eight *)(to + count - 8) = *(const eight *)(from + count - 8);
    } else if (count >= 4) {
        *(four *)to = *(const four *)from;
        *(four *)(to + count - 4) = *(const four *)(from + count - 4);
    } else {
        for (int64_t i = 0; i < count; i++) to[i] = from[i];
    }
}

INLINE void clear(float *to, int64_t count) {
    int64_t i = 0;
    for (; i + 4 <= count; i += 4) *(four *)(to + i) = (four){0};
    for (; i < count; i++) to[i] = 0.0f;
}

#if defined(__clang__) || __GNUC__ >= 12
/* Even floats of one vector and odd ones of another, which begins a float early: none beyond the last is read. */
#define EVEN_4(from) __builtin_shufflevector(*(const four *)(from), *(const four *)((from) + 3), 0, 2, 5, 7)
#define EVEN_8(from)                                                                                         \
    __builtin_shufflevector(*(const eight *)(from), *(const eight *)((from) + 7), 0, 2, 4, 6, 9, 11, 13, 15)
INLINE void copy_every_second(float *restrict to, const float *restrict from, int64_t count) {
    if (DYV_LANES >= 8 && count >= 8) {
        for (int64_t i = 0; i + 8 < count; i += 8) *(eight *)(to + i) = EVEN_8(from + 2 * i);
        *(eight *)(to + count - 8) = EVEN_8(from + 2 * (count - 8));
    } else if (count >= 4) {
        for (int64_t i = 0; i + 4 < count; i += 4) *(four *)(to + i) = EVEN_4(from + 2 * i);
        *(four *)(to + count - 4) = EVEN_4(from + 2 * (count - 4));
    } else {
        for (int64_t i = 0; i < count; i++) to[i] = from[2 * i];
    }
}
#else
INLINE void copy_every_second(float *restrict to, const float *restrict from, int64_t count) {
    for (int64_t i = 0; i < count; i++) to[i] = from[2 * i];
}
#endif

/* The unfolded input: a row for each weight of an output channel, or for each pixel, and the way back to the input. */

/* Output columns [*first, *end) for which a tap is inside the map. */
static void find_columns(const dyv_problem *p, int64_t tap, int64_t *first, int64_t *end) {
    const int64_t x = tap % p->kernel_w * p->dilation_w - p->left;
    *first = x < 0 ? smaller((-x + p->stride_w - 1) / p->stride_w, p->out_w) : 0;
    const int64_t stop = p->in_w > x ? smaller((p->in_w - x + p->stride_w - 1) / p->stride_w, p->out_w) : 0;
    *end = stop > *first ? stop : *first;
}

/* What a tap sees of a map: one row of the unfolded input. */
static void unfold_tap(const dyv_problem *p, int64_t tap, const float *map, float *restrict to) {
    const int64_t y = tap / p->kernel_w * p->dilation_h - p->top, x = tap % p->kernel_w * p->dilation_w - p->left;
    int64_t first, end;
    find_columns(p, tap, &first, &end);
    for (int64_t line = 0; line < p->out_h; line++, to += p->out_w) {
        const int64_t row = line * p->stride_h + y;
        if (row < 0 || row >= p->in_h || end == first) {
            clear(to, p->out_w);
            continue;
        }
        const float *from = map + row * p->in_w + x;
        for (int64_t column = 0; column < first; column++) to[column] = 0.0f;
        for (int64_t column = end; column < p->out_w; column++) to[column] = 0.0f;
        if (p->stride_w == 1)
            copy(to + first, from + first, end - first);
        else if (p->stride_w == 2)
            copy_every_second(to + first, from + 2 * first, end - first);
        else
            for (int64_t column = first; column < end; column++) to[column] = from[column * p->stride_w];
    }
}

INLINE void add_floats(float *restrict to, const float *restrict from, int64_t count) {
    int64_t i = 0;
    for (; i + DYV_LANES <= count; i += DYV_LANES) store(to + i, load(to + i) + load(from + i));
    for (; i + 4 <= count; i += 4) *(four *)(to + i) = *(const four *)(to + i) + *(const four *)(from + i);
    for (; i < count; i++) to[i] += from[i];
}

/* The way back: what a tap's row sends to a map. */
static void fold_tap(const dyv_problem *p, int64_t tap, const float *restrict from, float *restrict map) {
    const int64_t y = tap / p->kernel_w * p->dilation_h - p->top, x = tap % p->kernel_w * p->dilation_w - p->left;
    int64_t first, end;
    find_columns(p, tap, &first, &end);
    for (int64_t line = 0; line < p->out_h; line++, from += p->out_w) {
        const int64_t row = line * p->stride_h + y;
        if (row < 0 || row >= p->in_h) continue;
        float *to = map + row * p->in_w + x;
        if (p->stride_w == 1)
            add_floats(to + first, from + first, end - first);
        else
            for (int64_t column = first; column < end; column++) to[column * p->stride_w] += from[column];
    }
}

/* The unfolded input of a sample, a row for each pixel. */
static void write_columns(
    const struct backward *call, int64_t map, int64_t channels, const struct workplace *w, float *columns
) {
    const dyv_problem *p = call->p;
    const int64_t size = p->in_h * p->in_w;
    const float *from = call->t->input + map * size;
    if (call->plain) {
        transpose(from, size, channels, size, columns, call->wide);
        return;
    }
    for (int64_t i = 0; i < channels * call->taps; i++)
        unfold_tap(p, i % call->taps, from + i / call->taps * size, w->unfolded + i * APART(call->lines));
    transpose(w->unfolded, APART(call->lines), channels * call->taps, call->pixels, columns, call->wide);
}

/* From the gradient of a sample's unfolded input to that of its input. */
static void fold(const struct backward *call, int64_t map, int64_t channels, const float *unfolded) {
    const int64_t size = call->p->in_h * call->p->in_w;
    float *to = call->t->grad_input + map * size;
    for (int64_t c = 0; c < channels; c++, to += size) {
        if (call->plain) {
            copy(to, unfolded + c * call->lines, size);
            continue;
        }
        memset(to, 0, (size_t)size * sizeof(float));
        for (int64_t tap = 0; tap < call->taps; tap++)
            fold_tap(call->p, tap, unfolded + (c * call->taps + tap) * call->lines, to);
    }
}

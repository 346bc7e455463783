/*
 * Gradients of a depthwise convolution with given kernels: a vector holds one pixel of as many channels, so there are
 * neither ends of rows nor sums over lanes, and a channel's numbers meet no other's.
 */

struct slide_back {
    const dyv_problem *p;
    const dyv_gradients *t;
    int64_t taps, high, wide;  /* kH*kW, and the padded map as far as it is seen */
    int64_t blocks;            /* of channels */
    int64_t next;
    int failed;
};

/* Channels [channel, channel + count) of a map, pixel by pixel, into the padded map. */
static void write_pixels(const struct slide_back *call, const float *from, int64_t count, float *to) {
    const dyv_problem *p = call->p;
    const int64_t first = p->left, width = smaller(p->in_w, call->wide - first), size = p->in_h * p->in_w;
    memset(to, 0, (size_t)(call->high * call->wide * DYV_LANES) * sizeof(float));
    for (int64_t y = 0; y < p->in_h && y + p->top < call->high; y++)
        if (width > 0)
            transpose(
                from + y * p->in_w, size, count, width, to + ((y + p->top) * call->wide + first) * DYV_LANES, DYV_LANES
            );
}

/* Gradients of some taps: sums over all pixels. */
INLINE void sum_taps(
    const int taps, const dyv_problem *p, const int64_t *offsets, int64_t wide, const float *restrict map,
    const float *restrict grad, float *restrict to
) {
    vec sum[9];
#pragma GCC unroll 9
    for (int i = 0; i < taps; i++) sum[i] = (vec){0};
    for (int64_t y = 0; y < p->out_h; y++) {
        const float *from = map + y * p->stride_h * wide * DYV_LANES;
        for (int64_t x = 0; x < p->out_w; x++, grad += DYV_LANES, from += p->stride_w * DYV_LANES) {
            const vec g = load(grad);
#pragma GCC unroll 9
            for (int i = 0; i < taps; i++) sum[i] += g * load(from + offsets[i]);
        }
    }
#pragma GCC unroll 9
    for (int i = 0; i < taps; i++) store(to + i * DYV_LANES, sum[i]);
}

/* Gradients of a block's kernels, tap by tap: [taps, lanes]. */
static void differentiate_taps(const struct slide_back *call, const float *map, const float *grad, float *to) {
    const dyv_problem *p = call->p;
    for (int64_t tap = 0; tap < call->taps;) {
        int64_t offsets[9];
        const int64_t count = smaller(call->taps - tap, 9);
        for (int64_t i = 0; i < count; i++) {
            const int64_t y = (tap + i) / p->kernel_w * p->dilation_h, x = (tap + i) % p->kernel_w * p->dilation_w;
            offsets[i] = (y * call->wide + x) * DYV_LANES;
        }
        if (count == 9)
            sum_taps(9, p, offsets, call->wide, map, grad, to + tap * DYV_LANES), tap += 9;
        else if (count >= 5)
            sum_taps(5, p, offsets, call->wide, map, grad, to + tap * DYV_LANES), tap += 5;
        else if (count >= 3)
            sum_taps(3, p, offsets, call->wide, map, grad, to + tap * DYV_LANES), tap += 3;
        else
            sum_taps(1, p, offsets, call->wide, map, grad, to + tap * DYV_LANES), tap += 1;
    }
}

/* Columns [first, end) of a row of the padded input's gradient, where all taps of some rows of the kernel are seen. */
INLINE void gather(
    const int columns, const int rows, const dyv_problem *p, const float *const *grad, const float *const *weights,
    int64_t first, int64_t end, float *restrict to
) {
    for (int64_t x = first; x < end; x++) {
        vec sum = {0};
#pragma GCC unroll 3
        for (int r = 0; r < rows; r++) {
#pragma GCC unroll 3
            for (int c = 0; c < columns; c++)
                sum += load(grad[r] + (x - c * p->dilation_w) * DYV_LANES) * load(weights[r] + c * DYV_LANES);
        }
        store(to + x * DYV_LANES, sum);
    }
}

/* One row of the padded input's gradient. */
static void differentiate_row(const struct slide_back *call, int64_t row, const float *grad, const float *weights, float *to) {
    const dyv_problem *p = call->p;
    const float *from[3], *of_row[3];
    int64_t rows = 0, middle = 0, middle_end = 0;
    if (p->kernel_w == 3 && p->kernel_h <= 3 && p->stride_w == 1) {
        for (int64_t y = 0; y < p->kernel_h; y++) {
            const int64_t line = row - y * p->dilation_h;
            if (line < 0 || line % p->stride_h || line / p->stride_h >= p->out_h) continue;
            from[rows] = grad + line / p->stride_h * p->out_w * DYV_LANES;
            of_row[rows++] = weights + y * 3 * DYV_LANES;
        }
        middle = 2 * p->dilation_w, middle_end = p->out_w;
        if (rows && middle < middle_end) {
            if (rows == 3) gather(3, 3, p, from, of_row, middle, middle_end, to);
            if (rows == 2) gather(3, 2, p, from, of_row, middle, middle_end, to);
            if (rows == 1) gather(3, 1, p, from, of_row, middle, middle_end, to);
        } else {
            middle = middle_end = 0;
        }
    }
    /* the rest, by what each pixel of the output sends */
    memset(to, 0, (size_t)(middle * DYV_LANES) * sizeof(float));
    memset(to + middle_end * DYV_LANES, 0, (size_t)((call->wide - middle_end) * DYV_LANES) * sizeof(float));
    for (int64_t y = 0; y < p->kernel_h; y++) {
        const int64_t line = row - y * p->dilation_h;
        if (line < 0 || line % p->stride_h || line / p->stride_h >= p->out_h) continue;
        const float *sent = grad + line / p->stride_h * p->out_w * DYV_LANES;
        for (int64_t column = 0; column < p->kernel_w; column++) {
            const vec w = load(weights + (y * p->kernel_w + column) * DYV_LANES);
            const int64_t shift = column * p->dilation_w;
            for (int64_t x = 0; x < p->out_w; x++) {
                const int64_t at = x * p->stride_w + shift;
                if (at >= middle && at < middle_end) {
                    x = middle_end - 1 - shift; /* the stride is one */
                    continue;
                }
                store(to + at * DYV_LANES, load(to + at * DYV_LANES) + w * load(sent + x * DYV_LANES));
            }
        }
    }
}

static void work_slide_back(void *argument, int index, int team) {
    struct slide_back *call = argument;
    const dyv_problem *p = call->p;
    const dyv_gradients *t = call->t;
    const int64_t size = p->in_h * p->in_w, pixels = p->out_h * p->out_w, map = call->high * call->wide;
    float *planes = dyv_memory(DYV_PACKED, (size_t)((map + pixels) * DYV_LANES));
    float *tile = dyv_memory(DYV_TILE, (size_t)((2 * call->taps + call->wide) * DYV_LANES));
    (void)index, (void)team;
    if (!planes || !tile) {
        __atomic_store_n(&call->failed, 1, __ATOMIC_RELAXED);
        return;
    }
    float *grad = planes + map * DYV_LANES, *weights = tile, *sums = tile + call->taps * DYV_LANES;
    float *row = sums + call->taps * DYV_LANES;
    const int64_t units = p->batch * call->blocks;
    for (int64_t unit = take(&call->next, 1); unit < units; unit = take(&call->next, 1)) {
        const int64_t channel = unit % call->blocks * DYV_LANES;
        const int64_t count = smaller(p->in_channels - channel, DYV_LANES);
        const int64_t place = unit / call->blocks * p->in_channels + channel;
        if (count < DYV_LANES) memset(planes, 0, (size_t)((map + pixels) * DYV_LANES) * sizeof(float));
        if (count < DYV_LANES) memset(weights, 0, (size_t)(call->taps * DYV_LANES) * sizeof(float));
        transpose(t->grad + place * pixels, pixels, count, pixels, grad, DYV_LANES);
        if (t->grad_kernels) {
            write_pixels(call, t->input + place * size, count, planes);
            differentiate_taps(call, planes, grad, sums);
            transpose(sums, DYV_LANES, call->taps, count, t->grad_kernels + place * call->taps, call->taps);
        }
        if (!t->grad_input) continue;
        transpose(t->kernels + place * call->taps, call->taps, count, call->taps, weights, DYV_LANES);
        for (int64_t y = 0; y < p->in_h; y++) {
            float *to = t->grad_input + place * size + y * p->in_w;
            const int64_t seen = y + p->top < call->high ? smaller(p->in_w, call->wide - p->left) : 0;
            if (seen > 0) {
                differentiate_row(call, y + p->top, grad, weights, row);
                transpose(row + p->left * DYV_LANES, DYV_LANES, seen, count, to, size);
            }
            for (int64_t c = 0; c < count; c++) /* pixels that nothing sees */
                for (int64_t x = seen > 0 ? seen : 0; x < p->in_w; x++) to[c * size + x] = 0.0f;
        }
    }
    dyv_trim(DYV_GATES);
}

static int slide_back(const dyv_problem *p, const dyv_gradients *t, int threads) {
    struct slide_back call = {.p = p, .t = t, .taps = p->kernel_h * p->kernel_w};
    call.high = (p->out_h - 1) * p->stride_h + (p->kernel_h - 1) * p->dilation_h + 1;
    call.wide = (p->out_w - 1) * p->stride_w + (p->kernel_w - 1) * p->dilation_w + 1;
    call.blocks = (p->in_channels + DYV_LANES - 1) / DYV_LANES;
    const double work = (double)(p->batch * p->in_channels) * (double)(p->out_h * p->out_w * call.taps);
    dyv_run(work_slide_back, &call, (int)smaller(threads, 1 + (int64_t)(work / 100000.0)));
    return call.failed;
}

/*
 * Gradients of a dense convolution, mixed or given: for input, bank, coefficients and factors of the weights.
 *
 * A task is some input channels of a group, which have few enough weights for one output channel to be a few vectors.
 * Their part of the bank is read once for several samples; from it a tile of a sample's kernels is mixed, by which the
 * output's gradient becomes that of the unfolded input (and is folded to that of the input), and the gradient of the
 * tile, from the unfolded input, is added to those of K kernels and multiplied with them while it is in the cache.
 * A task owns all it writes, but sums over channels: these are parts that are added up in the order of the tasks.
 */

/* Weights of one output channel, more of small maps; floats of the bank's tile, and of a task's unfolded inputs. */
#define MOST_WIDE 72
#define MOST_WIDE_OF_SMALL 136
#define BANK_TILE 32768
#define MOST_UNFOLDED 98304
/* Floats of gradients of weights that are made at a time. */
#define MOST_STRIP 8192
/* Samples whose kernels are mixed together: the bank is read once for them. */
#define MIXED 4

INLINE float add_lanes(vec value) {
    float lanes[DYV_LANES];
    store(lanes, value);
    four sum = *(const four *)lanes;
#if DYV_LANES > 4
    for (int i = 4; i < DYV_LANES; i += 4) sum += *(const four *)(lanes + i);
#endif
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

/* Floats from one row to the next that is read beside it: not all of them in the same few places of a cache. */
#define APART(numbers) ((numbers) + DYV_LANES)

struct backward {
    const dyv_problem *p;
    const dyv_gradients *t;
    int64_t rows, depth, taps, inner, pixels, kernels; /* C_out/groups, C_in/groups, kH*kW, depth*taps, H'*W', K or 1 */
    int64_t channels, blocks, tasks;   /* of a task, tasks of a group, and all */
    int64_t wide, lines;               /* floats of a tile's row, and of a map of the output */
    int64_t samples, height, strip;    /* samples, and output channels, at a time; those of one gradient of weights */
    int64_t each;                      /* coefficients of a kernel that a task sees */
    int plain;                         /* 1x1, and every pixel is seen: nothing is unfolded */
    int by_pixel;                      /* the unfolded input's gradient has a row for each of few pixels */
    const float *grad;                 /* [B, C_out, lines] */
    float *packed, *parts, *factor_parts;
    int64_t next[4];
    int failed;
};

/* A thread's memory. */
struct workplace {
    float *bank, *grad_bank;          /* [K, height, wide] */
    float *mixed, *grad_mixed;        /* [MIXED, height, wide], [samples, strip, wide] */
    float *factors, *grad_factors;    /* [samples, wide] */
    float *dots;                      /* [samples, K, lanes], of the gradient of a mixture with the kernels */
    float *columns, *unfolded, *grad_unfolded; /* [samples, lines, wide], [wide, lines], [samples, wide, lines] */
};

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

/* Coefficients of an output channel: of a sample and its kernel k at from[k * kernel + sample * of_sample]. */
struct coefficients {
    const float *from;
    int64_t kernel, sample;
};

static struct coefficients coefficients_of(const struct backward *call, int64_t sample, int64_t channel) {
    static const float one = 1.0f;
    const dyv_problem *p = call->p;
    const int64_t each = p->per_channel ? p->out_channels : 1;
    if (!p->kernels) return (struct coefficients){&one, 0, 0};
    return (struct coefficients){
        call->t->coefficients + sample * p->kernels * each + (p->per_channel ? channel : 0), each, p->kernels * each
    };
}

/* Some vectors of a row of the kernels, mixed for some samples. */
INLINE void mix_vectors(
    const int samples, const int vectors, const struct backward *call, const float *bank, struct coefficients c,
    vec sum[4][4]
) {
    const int64_t next = call->height * call->wide;
#pragma GCC unroll 4
    for (int s = 0; s < samples; s++) {
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) sum[s][v] = c.from[s * c.sample] * load(bank + v * DYV_LANES);
    }
    for (int64_t k = 1; k < call->kernels; k++) {
        bank += next, c.from += c.kernel;
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) {
            const vec x = load(bank + v * DYV_LANES);
#pragma GCC unroll 4
            for (int s = 0; s < samples; s++) sum[s][v] += c.from[s * c.sample] * x;
        }
    }
}

INLINE void mix_part(
    const int samples, const int vectors, const struct backward *call, const float *bank, struct coefficients c,
    const float *factors, float *to
) {
    vec sum[4][4];
    mix_vectors(samples, vectors, call, bank, c, sum);
#pragma GCC unroll 4
    for (int s = 0; s < samples; s++, factors += factors ? call->wide : 0, to += call->height * call->wide) {
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++)
            store(to + v * DYV_LANES, factors ? sum[s][v] * load(factors + v * DYV_LANES) : sum[s][v]);
    }
}

/* Mix `high` rows from the tile of the bank for one or MIXED samples, with the factors of the weights. */
static void mix_rows(
    const struct backward *call, const struct workplace *w, int64_t sample, int64_t samples, int64_t channel,
    int64_t high, const float *factors, float *to
) {
    struct coefficients c = coefficients_of(call, sample, channel);
    const float *bank = w->bank;
    for (int64_t r = 0; r < high; r++, c.from += call->p->per_channel ? 1 : 0, bank += call->wide, to += call->wide) {
        int64_t v = 0;
        for (; v + 2 * DYV_LANES <= call->wide; v += 2 * DYV_LANES)
            if (samples == MIXED)
                mix_part(MIXED, 2, call, bank + v, c, factors ? factors + v : NULL, to + v);
            else
                mix_part(1, 2, call, bank + v, c, factors ? factors + v : NULL, to + v);
        for (; v < call->wide; v += DYV_LANES)
            if (samples == MIXED)
                mix_part(MIXED, 1, call, bank + v, c, factors ? factors + v : NULL, to + v);
            else
                mix_part(1, 1, call, bank + v, c, factors ? factors + v : NULL, to + v);
    }
}

INLINE void apply_to_part(
    const int vectors, const struct backward *call, const float *bank, struct coefficients c, const float *factors,
    float *grad_factors, float *grad
) {
    vec mixed[4][4];
    mix_vectors(1, vectors, call, bank, c, mixed);
#pragma GCC unroll 4
    for (int v = 0; v < vectors; v++) {
        const vec found = load(grad + v * DYV_LANES);
        store(grad_factors + v * DYV_LANES, load(grad_factors + v * DYV_LANES) + found * mixed[0][v]);
        store(grad + v * DYV_LANES, found * load(factors + v * DYV_LANES));
    }
}

/* Of the gradient of a row of a sample's weights: the factors' gradient, and the mixture's in its place. */
static void apply_factors(
    const struct backward *call, const float *bank, struct coefficients c, const float *factors, float *grad_factors,
    float *grad
) {
    int64_t v = 0;
    for (; v + 4 * DYV_LANES <= call->wide; v += 4 * DYV_LANES)
        apply_to_part(4, call, bank + v, c, factors + v, grad_factors + v, grad + v);
    for (; v < call->wide; v += DYV_LANES)
        apply_to_part(1, call, bank + v, c, factors + v, grad_factors + v, grad + v);
}

/* Gradients of a row of mixtures, at some vectors: summed to those of some kernels, and multiplied with the kernels. */
INLINE void spread(
    const int kernels, const int vectors, const struct backward *call, const float *grad, int64_t samples,
    struct coefficients c, const float *bank, float *grad_bank, float *dots, int add
) {
    const int64_t next = call->height * call->wide, of_sample = call->strip * call->wide;
    vec sum[2][4], weight[2][4];
#pragma GCC unroll 2
    for (int k = 0; k < kernels; k++) {
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) sum[k][v] = (vec){0}, weight[k][v] = load(bank + k * next + v * DYV_LANES);
    }
    for (int64_t s = 0; s < samples; s++, grad += of_sample, c.from += c.sample, dots += call->kernels * DYV_LANES) {
        vec dot[2];
        float factor[2];
#pragma GCC unroll 2
        for (int k = 0; k < kernels; k++)
            dot[k] = add ? load(dots + k * DYV_LANES) : (vec){0}, factor[k] = c.from[k * c.kernel];
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) {
            const vec g = load(grad + v * DYV_LANES);
#pragma GCC unroll 2
            for (int k = 0; k < kernels; k++) sum[k][v] += factor[k] * g, dot[k] += g * weight[k][v];
        }
#pragma GCC unroll 2
        for (int k = 0; k < kernels; k++) store(dots + k * DYV_LANES, dot[k]);
    }
#pragma GCC unroll 2
    for (int k = 0; k < kernels; k++) {
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) store(grad_bank + k * next + v * DYV_LANES, sum[k][v]);
    }
}

static void spread_row(
    const struct backward *call, const struct workplace *w, const float *grad, int64_t samples, struct coefficients c,
    int64_t row, int add
) {
    const int64_t next = call->height * call->wide, at = row * call->wide;
    int64_t k = 0;
    for (; k + 2 <= call->kernels; k += 2, c.from += 2 * c.kernel) {
        int64_t v = 0;
        for (; v + 4 * DYV_LANES <= call->wide; v += 4 * DYV_LANES)
            spread(
                2, 4, call, grad + v, samples, c, w->bank + k * next + at + v, w->grad_bank + k * next + at + v,
                w->dots + k * DYV_LANES, add || v
            );
        for (; v < call->wide; v += DYV_LANES)
            spread(
                2, 1, call, grad + v, samples, c, w->bank + k * next + at + v, w->grad_bank + k * next + at + v,
                w->dots + k * DYV_LANES, add || v
            );
    }
    for (int64_t v = 0; k < call->kernels && v < call->wide; v += DYV_LANES)
        spread(
            1, 1, call, grad + v, samples, c, w->bank + k * next + at + v, w->grad_bank + k * next + at + v,
            w->dots + k * DYV_LANES, add || v
        );
}

/* Gradients of `high` rows of the weights, for samples [first, end). `parts` are the coefficients' of the first one. */
static void differentiate_rows(
    const struct backward *call, const struct workplace *w, int64_t first, int64_t end, int64_t channel, int64_t row,
    int64_t high, int64_t weights, float *parts
) {
    const int64_t numbers = call->kernels * call->each, unfolded = call->wide * call->lines;
    const struct outer outer = {
        .a_row = call->lines, .a_step = 1, .b_step = call->wide, .to_row = call->wide, .steps = call->pixels
    };
    for (int64_t strip = 0; strip < high; strip += call->strip) {
        const int64_t rows = smaller(call->strip, high - strip);
        for (int64_t s = first; s < end; s++) {
            const float *grad = call->grad + (s * call->p->out_channels + channel + strip) * call->lines;
            float *to = w->grad_mixed + (s - first) * call->strip * call->wide;
            multiply_outer(&outer, rows, call->wide / DYV_LANES, grad, w->columns + (s - first) * unfolded, to);
            for (int64_t r = 0; r < rows; r++) {
                /* what is beyond the weights is no number of anything */
                for (int64_t i = weights; i < call->wide; i++) to[r * call->wide + i] = 0.0f;
                if (call->t->factors)
                    apply_factors(
                        call, w->bank + (strip + r) * call->wide, coefficients_of(call, s, channel + strip + r),
                        w->factors + (s - first) * call->wide, w->grad_factors + (s - first) * call->wide,
                        to + r * call->wide
                    );
            }
        }
        for (int64_t r = 0; r < rows; r++) {
            const struct coefficients c = coefficients_of(call, first, channel + strip + r);
            spread_row(call, w, w->grad_mixed + r * call->wide, end - first, c, strip + r, !call->p->per_channel);
            if (!call->p->per_channel || !parts) continue;
            for (int64_t s = 0; s < end - first; s++)
                for (int64_t k = 0; k < call->kernels; k++)
                    parts[s * numbers + k * call->each + row + strip + r] =
                        add_lanes(load(w->dots + (s * call->kernels + k) * DYV_LANES));
        }
    }
}

/* Rows of the bank's tile, from memory and to it; what is beyond the weights is zero. */
static void read_bank(
    const struct backward *call, const struct workplace *w, const float *from, int64_t high, int64_t weights
) {
    const int64_t kernel = call->p->out_channels * call->inner;
    for (int64_t k = 0; k < call->kernels; k++)
        for (int64_t r = 0; r < high; r++) {
            float *to = w->bank + (k * call->height + r) * call->wide;
            copy(to, from + k * kernel + r * call->inner, weights);
            for (int64_t i = weights; i < call->wide; i++) to[i] = 0.0f;
        }
}

static void write_bank(
    const struct backward *call, const struct workplace *w, float *to, int64_t high, int64_t weights, int add
) {
    const int64_t kernel = call->p->out_channels * call->inner;
    for (int64_t k = 0; k < call->kernels; k++)
        for (int64_t r = 0; r < high; r++) {
            const float *from = w->grad_bank + (k * call->height + r) * call->wide;
            if (add)
                add_floats(to + k * kernel + r * call->inner, from, weights);
            else
                copy(to + k * kernel + r * call->inner, from, weights);
        }
}

/* Samples [first, end) of one task. */
static void differentiate_samples(
    const struct backward *call, const struct workplace *w, int64_t task, int64_t first, int64_t end
) {
    const dyv_problem *p = call->p;
    const dyv_gradients *t = call->t;
    const int64_t group = task / call->blocks, start = task % call->blocks * call->channels;
    const int64_t channels = smaller(call->channels, call->depth - start), weights = channels * call->taps;
    const int64_t bank = p->out_channels * call->inner, numbers = call->kernels * call->each;
    float *parts = call->parts ? call->parts + (task * p->batch + first) * numbers : NULL;
    const int64_t unfolded = call->wide * call->lines, vectors = call->lines / DYV_LANES;
    const int of_weights = t->grad_kernels || t->grad_coefficients || t->grad_factors;
    const int straight = call->plain && call->lines == call->pixels && !call->by_pixel;
    for (int64_t s = first; s < end; s++) {
        const int64_t map = s * p->in_channels + group * call->depth + start;
        if (of_weights) write_columns(call, map, channels, w, w->columns + (s - first) * unfolded);
        float *factors = w->factors + (s - first) * call->wide;
        for (int64_t i = 0; t->factors && i < call->wide; i++) {
            const int64_t at = start * call->taps + i;
            const float *from = t->factors + s * (p->by_channel ? call->inner : call->taps);
            factors[i] = i < weights ? from[p->by_channel ? at : at % call->taps] : 0.0f;
            w->grad_factors[(s - first) * call->wide + i] = 0.0f;
        }
    }
    memset(w->dots, 0, (size_t)((end - first) * call->kernels * DYV_LANES) * sizeof(float));
    for (int64_t row = 0; row < call->rows; row += call->height) {
        const int64_t high = smaller(call->height, call->rows - row), channel = group * call->rows + row;
        const int64_t place = (p->kernels ? 0 : first * bank) + channel * call->inner + start * call->taps;
        read_bank(call, w, t->kernels + place, high, weights);
        const struct outer outer = {
            .a_row = 1, .a_step = call->wide, .b_step = call->lines, .to_row = call->lines, .steps = high, .add = row > 0
        };
        const struct outer by_pixel = {
            .a_row = 1, .a_step = call->lines, .b_step = call->wide, .to_row = call->wide, .steps = high, .add = row > 0
        };
        for (int64_t s = first; t->grad_input && s < end; s++) {
            const int64_t map = s * p->in_channels + group * call->depth + start;
            float *to = straight ? t->grad_input + map * call->pixels : w->grad_unfolded + (s - first) * unfolded;
            const float *grad = call->grad + (s * p->out_channels + channel) * call->lines;
            const int64_t turn = (s - first) % MIXED, left = end - s;
            const float *factors = t->factors ? w->factors + (s - first) * call->wide : NULL;
            float *mixed = w->mixed + turn * call->height * call->wide;
            if (turn == 0 && left >= MIXED)
                mix_rows(call, w, s, MIXED, channel, high, factors, mixed);
            else if (left + turn < MIXED)
                mix_rows(call, w, s, 1, channel, high, factors, mixed);
            if (call->by_pixel)
                multiply_outer(&by_pixel, call->pixels, call->wide / DYV_LANES, grad, mixed, to);
            else
                multiply_outer(&outer, weights, vectors, mixed, grad, to);
        }
        if (of_weights) differentiate_rows(call, w, first, end, channel, row, high, weights, parts);
        if (t->grad_kernels) write_bank(call, w, t->grad_kernels + place, high, weights, p->kernels && first > 0);
    }
    for (int64_t i = 0; parts && !p->per_channel && i < (end - first) * numbers; i++)
        parts[i] = add_lanes(load(w->dots + i * DYV_LANES));
    for (int64_t s = first; s < end; s++) {
        const int64_t map = s * p->in_channels + group * call->depth + start;
        float *from_grad = w->grad_unfolded + (s - first) * unfolded;
        if (t->grad_input && call->by_pixel) {
            transpose(from_grad, call->wide, call->pixels, weights, w->unfolded, call->lines);
            from_grad = w->unfolded;
        }
        if (t->grad_input && !straight) fold(call, map, channels, from_grad);
        if (!t->grad_factors) continue;
        const float *from = w->grad_factors + (s - first) * call->wide;
        if (p->by_channel) {
            copy(call->factor_parts + (group * p->batch + s) * call->inner + start * call->taps, from, weights);
        } else {
            float *to = call->factor_parts + (task * p->batch + s) * call->taps;
            for (int64_t i = 0; i < call->taps; i++) to[i] = from[i];
            for (int64_t i = call->taps; i < weights; i++) to[i % call->taps] += from[i];
        }
    }
}

/* Sums of parts, in their order: from[part * stride] for `count` numbers. */
static void add_parts(const float *from, int64_t parts, int64_t stride, int64_t count, float *to) {
    memcpy(to, from, (size_t)count * sizeof(float));
    for (int64_t part = 1; part < parts; part++) add_floats(to, from + part * stride, count);
}

static void add_up(const struct backward *call, int64_t sample) {
    const dyv_problem *p = call->p;
    const dyv_gradients *t = call->t;
    if (t->grad_coefficients) {
        const int64_t each = call->each, numbers = p->kernels * each;
        const int64_t of_group = call->blocks * p->batch * numbers;
        for (int64_t g = 0; p->per_channel && g < p->groups; g++)
            for (int64_t k = 0; k < p->kernels; k++)
                add_parts(
                    call->parts + g * of_group + sample * numbers + k * each, call->blocks, p->batch * numbers, each,
                    t->grad_coefficients + (sample * p->kernels + k) * p->out_channels + g * each
                );
        if (!p->per_channel)
            add_parts(
                call->parts + sample * numbers, call->tasks, p->batch * numbers, numbers,
                t->grad_coefficients + sample * numbers
            );
    }
    if (t->grad_factors) {
        const int64_t numbers = p->by_channel ? call->inner : call->taps, parts = p->by_channel ? p->groups : call->tasks;
        add_parts(
            call->factor_parts + sample * numbers, parts, p->batch * numbers, numbers, t->grad_factors + sample * numbers
        );
    }
}

static int find_workplace(const struct backward *call, struct workplace *w) {
    const int64_t tile = call->height * call->wide, unfolded = call->wide * call->lines;
    const int64_t apart = call->wide * APART(call->lines);
    const int64_t strips = call->samples * call->strip * call->wide;
    const int64_t numbers = (2 * call->kernels + MIXED) * tile + strips + 2 * call->samples * call->wide;
    float *at = dyv_memory(DYV_TILE, (size_t)(numbers + call->samples * call->kernels * DYV_LANES));
    float *large = dyv_memory(DYV_SUMS, (size_t)(2 * call->samples * unfolded + apart));
    if (!at || !large) return 0;
    w->bank = at, w->grad_bank = at += call->kernels * tile;
    w->mixed = at += call->kernels * tile, w->grad_mixed = at += MIXED * tile;
    w->factors = at += strips, w->grad_factors = at += call->samples * call->wide, w->dots = at + call->samples * call->wide;
    w->columns = large, w->grad_unfolded = large + call->samples * unfolded;
    w->unfolded = large + 2 * call->samples * unfolded;
    return 1;
}

static void work_backward(void *argument, int index, int team) {
    struct backward *call = argument;
    const dyv_problem *p = call->p;
    struct workplace w;
    (void)index;
    if (call->packed) {
        const int64_t maps = p->batch * p->out_channels, some = maps / (4 * team) + 1;
        for (int64_t m = take(&call->next[0], some); m < maps; m = take(&call->next[0], some))
            for (int64_t i = m; i < m + some && i < maps; i++) {
                copy(call->packed + i * call->lines, call->t->grad + i * call->pixels, call->pixels);
                for (int64_t j = call->pixels; j < call->lines; j++) call->packed[i * call->lines + j] = 0.0f;
            }
        dyv_wait(team);
    }
    if (find_workplace(call, &w)) {
        for (int64_t task = take(&call->next[1], 1); task < call->tasks; task = take(&call->next[1], 1))
            for (int64_t s = 0; s < p->batch; s += call->samples)
                differentiate_samples(call, &w, task, s, smaller(s + call->samples, p->batch));
    } else {
        __atomic_store_n(&call->failed, 1, __ATOMIC_RELAXED);
    }
    dyv_wait(team);
    for (int64_t s = take(&call->next[2], 1); s < p->batch; s = take(&call->next[2], 1)) add_up(call, s);
    dyv_trim();
}

/* Input channels of a task: few weights in vanishing parts of vectors, not too many, and equal work for the threads. */
static int64_t choose_channels(const struct backward *call, int threads) {
    const int64_t depth = call->depth, taps = call->taps;
    int64_t best = 1, most = smaller(MOST_WIDE_OF_SMALL, MOST_UNFOLDED / (2 * call->p->batch * call->lines));
    most = most < MOST_WIDE || !call->p->kernels ? MOST_WIDE : most;
    double least = 1e30;
    for (int64_t c = 1; c <= depth && (c == 1 || c * taps <= most); c++) {
        const int64_t tasks = (depth + c - 1) / c * call->p->groups, vectors = TILE_ROW(c * taps) / DYV_LANES;
        const double one = (double)(vectors * DYV_LANES) + 8.0 + (vectors % DYV_MOST_VECTORS ? 8.0 : 0.0);
        const double cost = (double)((tasks + threads - 1) / threads) * one;
        if (cost < least) best = c, least = cost;
    }
    return best;
}

/* Returns 0, or 1 if there was no memory. */
int DYV_DIFFERENTIATE(const dyv_problem *p, const dyv_gradients *t, int threads) {
    if (p->groups == p->in_channels && p->groups == p->out_channels && p->groups > 1 && !p->kernels)
        return slide_back(p, t, threads);
    struct backward call = {.p = p, .t = t, .grad = t->grad};
    call.rows = p->out_channels / p->groups, call.depth = p->in_channels / p->groups;
    call.taps = p->kernel_h * p->kernel_w, call.inner = call.depth * call.taps;
    call.pixels = p->out_h * p->out_w, call.kernels = p->kernels ? p->kernels : 1;
    call.lines = TILE_ROW(call.pixels);
    const double work = (double)p->batch * (double)p->groups * (double)(call.rows * call.inner * call.lines);
    threads = (int)smaller(threads, 1 + (int64_t)(work / 100000.0));
    if (t->grad_kernels) dyv_expect(t->grad_kernels, (size_t)(p->kernels * p->out_channels * call.inner));
    call.channels = choose_channels(&call, threads);
    call.blocks = (call.depth + call.channels - 1) / call.channels, call.tasks = call.blocks * p->groups;
    call.wide = TILE_ROW(call.channels * call.taps);
    call.plain = call.taps == 1 && p->stride_h == 1 && p->stride_w == 1 && call.pixels == p->in_h * p->in_w;
    /* a vector of few pixels is multiplied by more broadcast weights than one of weights by pixels */
    call.by_pixel = call.lines < DYV_MOST_VECTORS * DYV_LANES || (call.lines <= 128 && 8 * call.pixels < 7 * call.lines);
    call.samples = MOST_UNFOLDED / (2 * call.wide * call.lines);
    call.samples = p->kernels && call.samples > 1 ? smaller(call.samples, p->batch) : 1;
    call.height = BANK_TILE / (call.kernels * call.wide) / 12 * 12;
    call.height = smaller(call.height < 12 ? 12 : call.height, call.rows);
    call.strip = MOST_STRIP / (call.samples * call.wide) / 6 * 6;
    call.strip = smaller(call.strip < 6 ? 6 : call.strip, call.height);
    call.each = p->per_channel ? call.rows : 1;
    const int64_t parts = t->grad_coefficients ? call.tasks * p->batch * p->kernels * call.each : 0;
    const int64_t factor_parts = !t->grad_factors ? 0
        : p->batch * (p->by_channel ? p->groups * call.inner : call.tasks * call.taps);
    if (parts + factor_parts) {
        call.parts = dyv_memory(DYV_PARTS, (size_t)(parts + factor_parts));
        if (!call.parts) return 1;
        call.factor_parts = call.parts + parts;
        if (!parts) call.parts = NULL;
    }
    if (call.lines != call.pixels) {
        call.packed = dyv_memory(DYV_PACKED, (size_t)(p->batch * p->out_channels * call.lines));
        if (!call.packed) return 1;
        call.grad = call.packed;
    }
    dyv_run(work_backward, &call, threads);
    dyv_trim();
    return call.failed;
}

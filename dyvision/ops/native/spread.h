/*
 * Between the bank and the kernels of several samples: mixing, and from the gradient of a sample's kernels to those of
 * the bank, the coefficients and the factors.
 */

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

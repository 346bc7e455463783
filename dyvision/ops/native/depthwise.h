/* One input channel per group: nothing is summed over channels, so a strip of rows goes from input to output at once. */

/* Vectors of one output channel, tap by tap. */
INLINE void slide(
    const int vectors, const int taps, const dyv_plan *plan, const float *restrict weights, const float *restrict planes, float bias,
    float *restrict sums
) {
    vec sum[8];
#pragma GCC unroll 8
    for (int v = 0; v < vectors; v++) sum[v] = (vec){0};
#pragma GCC unroll 9
    for (int tap = 0; tap < taps; tap++) {
        const float w = weights[tap], *from = planes + plan->tap_offset[tap];
#pragma GCC unroll 8
        for (int v = 0; v < vectors; v++) sum[v] += w * load(from + v * DYV_LANES);
    }
#pragma GCC unroll 8
    for (int v = 0; v < vectors; v++) store(sums + v * DYV_LANES, activate(sum[v] + bias, plan->problem.activation));
}

/* One output channel: a strip of `rows` rows whose planes are packed. */
INLINE void slide_rows(
    const int taps, const dyv_plan *plan, const float *weights, const float *planes, float bias, int64_t rows, float *sums, float *out
) {
    const int64_t width = plan->problem.out_w;
    const int64_t vectors = ((rows - 1) * plan->pitch + width + DYV_LANES - 1) / DYV_LANES;
    int64_t v = 0;
    for (; v + 8 <= vectors; v += 8) slide(8, taps, plan, weights, planes + v * DYV_LANES, bias, sums + v * DYV_LANES);
    for (; v + 4 <= vectors; v += 4) slide(4, taps, plan, weights, planes + v * DYV_LANES, bias, sums + v * DYV_LANES);
    for (; v + 2 <= vectors; v += 2) slide(2, taps, plan, weights, planes + v * DYV_LANES, bias, sums + v * DYV_LANES);
    for (; v < vectors; v++) slide(1, taps, plan, weights, planes + v * DYV_LANES, bias, sums + v * DYV_LANES);
    for (int64_t row = 0; row < rows; row++) copy(out + row * width, sums + row * plan->pitch, width);
}

/* Units are channels of samples: some at a time, of one sample, mixed in one go. */
static void work_depthwise(void *argument, int index, int team) {
    struct call *call = argument;
    const dyv_plan *plan = call->plan;
    const dyv_tensors *t = call->tensors;
    const dyv_problem *p = &plan->problem;
    const int64_t taps = plan->taps, size = p->in_h * p->in_w;
    int64_t some = call->units / (8 * team);
    some = some < 1 ? 1 : smaller(some, 32);
    const int64_t numbers = some * plan->rows * taps + DYV_LANES; /* rows are written in whole vectors */
    float *planes = dyv_memory(DYV_PACKED, (size_t)unit_floats(plan));
    float *tile = dyv_memory(DYV_TILE, (size_t)(2 * TILE_ROW(numbers)));
    float *sums = dyv_memory(DYV_SUMS, (size_t)(plan->vectors * DYV_LANES));
    (void)index;
    if (!planes || !tile || !sums) {
        __atomic_store_n(&call->failed, 1, __ATOMIC_RELAXED);
        return;
    }
    memset(planes, 0, (size_t)unit_floats(plan) * sizeof(float));
    float *factors = tile + TILE_ROW(numbers);
    for (int64_t unit = take(&call->next, some); unit < call->units; unit = take(&call->next, some)) {
        const int64_t end = smaller(unit + some, call->units);
        for (int64_t u = unit, mixed = unit, mixed_end = unit; u < end; u++) {
            const int64_t sample = u / p->groups, group = u % p->groups;
            const float *weights = t->kernels + u * plan->rows * taps;
            if (p->kernels && u == mixed_end) { /* the rest of the task, or of the sample */
                mixed = u, mixed_end = smaller(end, (sample + 1) * p->groups);
                const int64_t rows = (mixed_end - u) * plan->rows;
                if (t->factors) write_factors(call, sample, 0, rows * taps, factors);
                const int each = p->per_channel != 0; /* else all rows are one */
                mix_tile(
                    call, sample, group * plan->rows, each ? rows : 1, 0, each ? taps : rows * taps, tile, taps,
                    t->factors ? factors : NULL
                );
            }
            if (p->kernels) weights = tile + (u - mixed) * plan->rows * taps;
            for (int64_t strip = 0; strip < plan->strips; strip++) {
                const int64_t top = strip * plan->strip, rows = smaller(plan->strip, p->out_h - top);
                pack_channel(plan, t->input + u * size, top, 1, planes);
                for (int64_t r = 0; r < plan->rows; r++) {
                    const int64_t channel = group * plan->rows + r;
                    const float bias = p->bias == DYV_NO_BIAS ? 0.0f : bias_of(call, sample, channel);
                    float *out = t->output + (sample * p->out_channels + channel) * plan->pixels + top * p->out_w;
                    if (taps == 9)
                        slide_rows(9, plan, weights + r * 9, planes, bias, rows, sums, out);
                    else
                        slide_rows((int)taps, plan, weights + r * taps, planes, bias, rows, sums, out);
                }
            }
        }
    }
}

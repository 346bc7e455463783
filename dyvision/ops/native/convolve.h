/* The convolution: kernels are mixed into a tile that stays in the cache, and applied from there. */

/* Rows of a tile, and sums that wait for the next block of channels. */
#define PANEL (4 * DYV_MOST_ROWS)
#define MOST_SUMS 65536
/* Floats of planes that are packed at a time: 8 MiB. */
#define MOST_PACKED 2097152
/* Numbers of the K kernels from which they are read once for several samples, and ahead of their use. */
#define LARGE_BANK 131072

/* Some output channels of one group, at some vectors of pixels of some samples. */
struct part {
    int64_t group, row, row_end, vector, vector_end, sample, sample_end;
};

/* The last pixels of a part, along its weights; `sums` has them behind its vectors, or the output where they are. */
static void add_rest(
    const struct call *call, const struct product *product, const float *weights, int64_t rows, const float *columns,
    const float *bias, float *sums
) {
    const dyv_plan *plan = call->plan;
    float found[4][4];
    for (int64_t r = 0, some; r < rows; r += some) {
        some = rows - r >= 4 ? 4 : 1;
        for (int64_t c = 0, wide; c < plan->rest; c += wide) {
            wide = sum_rows(
                some, plan->rest - c, weights + r * product->weight_stride, product->weight_stride,
                columns + c * plan->inner, plan->inner, product->channels * plan->taps, found
            );
            for (int64_t i = 0; i < some; i++)
                for (int64_t j = 0; j < wide; j++) {
                    float *to = sums + (r + i) * product->sums_stride + c + j;
                    float value = product->first ? found[i][j] : *to + found[i][j];
                    if (product->last) {
                        value = bias ? value + bias[r + i] : value;
                        if (product->activation != DYV_NO_ACTIVATION && value < 0.0f) value = 0.0f; /* NaN stays */
                        if (product->activation == DYV_RELU6 && value > 6.0f) value = 6.0f;
                    }
                    *to = value;
                }
        }
    }
}

/* A part of at most PANEL rows: block by block of channels, each mixed once per sample while the bank is at hand. */
static int convolve_part(
    const struct call *call, const struct part *part, const float *packed, const float *columns
) {
    const dyv_plan *plan = call->plan;
    const dyv_tensors *t = call->tensors;
    const dyv_problem *p = &plan->problem;
    const int64_t rows = part->row_end - part->row, vectors = part->vector_end - part->vector, taps = plan->taps;
    const int64_t channel = part->group * plan->rows + part->row; /* of the output */
    const int64_t deepest = taps >= DYV_BLOCK ? 1 : DYV_BLOCK / taps;
    const int64_t blocks = (plan->depth + deepest - 1) / deepest, block = (plan->depth + blocks - 1) / blocks;
    const int64_t stride = TILE_ROW(block * taps), kernel = p->out_channels * plan->inner;
    /* straight into the output, if its pixels are those of the vectors and no block adds to another's */
    const int straight = plan->gapless && blocks == 1 && plan->pixels >= plan->lanes;
    const int64_t rest = part->vector_end == plan->vectors ? plan->rest : 0, computed = vectors * DYV_LANES;
    const int64_t sums_stride = straight ? plan->pixels : computed + rest, of_sample = rows * sums_stride;
    float *tile = dyv_memory(DYV_TILE, (size_t)((PANEL + 1 + DYV_MOST_ROWS) * stride + PANEL));
    float *sums = NULL;
    if (!straight) sums = dyv_memory(DYV_SUMS, (size_t)((part->sample_end - part->sample) * of_sample));
    if (!tile || (!straight && !sums)) return 1;
    float *factors = tile + PANEL * stride, *room = factors + stride, *bias = room + DYV_MOST_ROWS * stride;
    struct product product = {
        .taps = taps, .plane = plan->plane, .tap_offset = plan->tap_offset, .activation = p->activation,
        .sums_stride = sums_stride, .ahead_rows = plan->inner, .ahead_kernels = kernel,
        .weight_stride = p->kernels ? stride : plan->inner,
    };
    const int large = (p->kernels ? p->kernels : p->batch) * kernel >= LARGE_BANK;
    for (int64_t depth = 0; depth < plan->depth; depth += block) {
        product.channels = smaller(plan->depth - depth, block);
        product.first = depth == 0 && !p->accumulate, product.last = depth + block >= plan->depth;
        for (int64_t sample = part->sample; sample < part->sample_end; sample++) {
            const int64_t unit = sample * p->groups + part->group;
            const float *planes = plan->direct ? map_of(call, unit) : packed;
            if (call->packed) planes += (unit - call->first * p->groups) * unit_floats(plan);
            float *output = t->output + (sample * p->out_channels + channel) * plan->pixels;
            float *into = straight ? output : sums + (sample - part->sample) * of_sample;
            const float *weights = tile, *given = t->kernels + channel * plan->inner + depth * taps;
            if (p->kernels) {
                if (t->factors) write_factors(call, sample, depth * taps, product.channels * taps, factors);
                mix_tile(
                    call, sample, channel, rows, depth * taps, product.channels * taps, tile, stride,
                    t->factors ? factors : NULL
                );
                if (t->up) add_low_rank(call, sample, channel, rows, depth, product.channels, tile, stride, room);
            } else {
                weights = given += sample * kernel;
            }
            if (product.last && p->bias != DYV_NO_BIAS)
                for (int64_t r = 0; r < rows; r++) bias[r] = bias_of(call, sample, channel + r);
            for (int64_t v = part->vector; v < part->vector_end; v += DYV_MOST_VECTORS) {
                const int64_t wide = smaller(part->vector_end - v, DYV_MOST_VECTORS);
                for (int64_t i = 0; i < wide; i++) {
                    product.start[i] = start_of(plan, v + i);
                    product.offset[i] = straight ? product.start[i] : (v + i - part->vector) * DYV_LANES;
                }
                /* the next block, or the next output channels, are fetched while this one is computed */
                const int fetch = large && v == part->vector && (sample == part->sample || !p->kernels);
                product.kernels_ahead = fetch ? (p->kernels ? p->kernels : 1) : 0;
                for (int64_t r = 0; r < rows; r += DYV_MOST_ROWS) {
                    const int64_t high = smaller(rows - r, DYV_MOST_ROWS);
                    product.ahead = given + r * plan->inner + product.channels * taps;
                    if (product.last) product.ahead += rows * plan->inner - plan->inner;
                    multiplications[high - 1][wide - 1](
                        &product, weights + r * product.weight_stride, planes + depth * plan->plane,
                        p->bias == DYV_NO_BIAS ? NULL : bias + r, into + r * sums_stride
                    );
                }
            }
            if (rest) {
                const float *of_unit = planes + place_of_columns(plan);
                if (plan->direct) of_unit = columns + (sample - part->sample) * rest * plan->inner;
                add_rest(
                    call, &product, weights, rows, of_unit + depth * taps, p->bias == DYV_NO_BIAS ? NULL : bias,
                    into + (straight ? plan->pixels - rest : computed)
                );
            }
            if (straight || !product.last) continue;
            for (int64_t r = 0; r < rows; r++) {
                const float *row = into + r * sums_stride;
                float *to = output + r * plan->pixels;
                unpack(plan, row, part->vector, part->vector_end, to);
                for (int64_t i = 0; i < rest; i++) to[plan->pixels - rest + i] = row[computed + i];
            }
        }
    }
    return 0;
}

/* Any part: at most PANEL rows, and as many vectors and samples as sums fit into the cache, at a time. */
static int convolve_parts(const struct call *call, const struct part *part, const float *packed) {
    const dyv_plan *plan = call->plan;
    const int64_t most = smaller(MOST_SUMS / (PANEL * DYV_LANES), part->vector_end - part->vector);
    const int64_t samples = MOST_SUMS / (PANEL * DYV_LANES * most);
    const int64_t of_sample = plan->rest * plan->inner;
    float *columns = NULL;
    if (plan->direct && plan->rest) { /* there are no planes behind which they could be */
        columns = dyv_memory(DYV_PACKED, (size_t)((part->sample_end - part->sample) * of_sample));
        if (!columns) return 1;
        for (int64_t s = part->sample; s < part->sample_end; s++) {
            const float *map = map_of(call, s * plan->problem.groups + part->group);
            for (int64_t c = 0; c < plan->depth; c++)
                write_last_columns(plan, map + c * plan->pixels, c, columns + (s - part->sample) * of_sample);
        }
    }
    for (int64_t r = part->row; r < part->row_end; r += PANEL)
        for (int64_t s = part->sample; s < part->sample_end; s += samples)
            for (int64_t v = part->vector; v < part->vector_end; v += most) {
                const struct part one = {
                    part->group, r, smaller(part->row_end, r + PANEL), v, smaller(part->vector_end, v + most),
                    s, smaller(part->sample_end, s + samples),
                };
                const float *own = columns ? columns + (s - part->sample) * of_sample : NULL;
                if (convolve_part(call, &one, packed, own)) return 1;
            }
    return 0;
}

/* Each thread packs and computes whole units. */
static void work_apart(void *argument, int index, int team) {
    struct call *call = argument;
    const dyv_plan *plan = call->plan;
    const int64_t some = call->units / (8 * team) > 0 ? call->units / (8 * team) : 1;
    float *planes = plan->direct ? NULL : dyv_memory(DYV_PACKED, (size_t)unit_floats(plan));
    (void)index;
    int failed = !plan->direct && !planes;
    for (int64_t unit = take(&call->next, some); !failed && unit < call->units; unit = take(&call->next, some)) {
        for (int64_t u = unit; u < unit + some && u < call->units; u++) {
            if (!plan->direct) pack_unit(call, u, 0, plan->depth, planes);
            const int64_t sample = u / plan->problem.groups, group = u % plan->problem.groups;
            const struct part part = {group, 0, plan->rows, 0, plan->vectors, sample, sample + 1};
            failed |= convolve_parts(call, &part, planes);
        }
    }
    if (failed) __atomic_store_n(&call->failed, 1, __ATOMIC_RELAXED);
    dyv_trim(DYV_GATES);
}

/* All threads pack all units, and compute parts of them. */
static void work_together(void *argument, int index, int team) {
    struct call *call = argument;
    const dyv_plan *plan = call->plan;
    const int64_t groups = plan->problem.groups;
    (void)index;
    if (!plan->direct) {
        const int64_t channels = call->units * plan->depth;
        const int64_t some = channels / (4 * team) > 0 ? channels / (4 * team) : 1;
        for (int64_t c = take(&call->next_packed, some); c < channels; c = take(&call->next_packed, some))
            for (int64_t i = c; i < c + some && i < channels; i++) {
                const int64_t unit = i / plan->depth, channel = i % plan->depth;
                float *planes = call->packed + unit * unit_floats(plan);
                pack_unit(call, call->first * groups + unit, channel, channel + 1, planes);
            }
        dyv_wait(team);
    }
    const int64_t heights = (plan->rows + DYV_MOST_ROWS - 1) / DYV_MOST_ROWS;
    const int64_t widths = (plan->vectors + DYV_MOST_VECTORS - 1) / DYV_MOST_VECTORS;
    const int64_t tasks = call->sequences * groups * call->panels * call->chunks;
    for (int64_t task = take(&call->next, 1); task < tasks; task = take(&call->next, 1)) {
        const int64_t chunk = task % call->chunks, panel = task / call->chunks % call->panels;
        const int64_t group = task / (call->chunks * call->panels) % groups;
        const int64_t sequence = task / (call->chunks * call->panels * groups);
        const struct part part = {
            group,
            heights * panel / call->panels * DYV_MOST_ROWS,
            smaller(heights * (panel + 1) / call->panels * DYV_MOST_ROWS, plan->rows),
            widths * chunk / call->chunks * DYV_MOST_VECTORS,
            smaller(widths * (chunk + 1) / call->chunks * DYV_MOST_VECTORS, plan->vectors),
            call->first + call->batch * sequence / call->sequences,
            call->first + call->batch * (sequence + 1) / call->sequences,
        };
        if (convolve_parts(call, &part, call->packed)) __atomic_store_n(&call->failed, 1, __ATOMIC_RELAXED);
    }
}

/* Returns 0, or 1 if there was no memory. */
int DYV_CONVOLVE(const dyv_plan *plan, const dyv_tensors *tensors, int threads) {
    const dyv_problem *p = &plan->problem;
    struct call call = {.plan = plan, .tensors = tensors, .batch = p->batch, .units = p->batch * p->groups};
    /* a thread more has to be worth waking */
    const double work = (double)call.units * (double)(plan->rows * plan->inner * plan->vectors * DYV_LANES);
    threads = (int)smaller(threads, 1 + (int64_t)(work / 100000.0));
    /* several samples go through a large bank together, if their sums fit into the cache */
    const int share_bank = p->batch > 1 && p->groups == 1 && p->kernels * plan->rows * plan->inner >= LARGE_BANK
        && 2 * PANEL * plan->vectors * DYV_LANES <= MOST_SUMS;
    if (plan->strips) {
        dyv_run(work_depthwise, &call, threads);
        return call.failed;
    }
    /* whole units for each thread, unless some would have nothing to do for long while others compute the last ones */
    const int64_t rounds = (call.units + threads - 1) / threads;
    if (!share_bank && (threads == 1 || 20 * rounds * threads <= 23 * call.units)) {
        dyv_run(work_apart, &call, threads);
        return call.failed;
    }
    const int64_t heights = (plan->rows + DYV_MOST_ROWS - 1) / DYV_MOST_ROWS;
    const int64_t widths = (plan->vectors + DYV_MOST_VECTORS - 1) / DYV_MOST_VECTORS;
    call.panels = (plan->rows + PANEL - 1) / PANEL;
    call.panels = smaller((call.panels + threads - 1) / threads * threads, heights);
    /* samples whose planes stay in the cache that all threads share, until the last panel has read them */
    const int64_t of_sample = plan->direct ? 0 : p->groups * unit_floats(plan);
    const int64_t fitting = 1 + MOST_PACKED / (of_sample + 1), runs = (p->batch + fitting - 1) / fitting;
    for (int64_t run = 0; run < runs && !call.failed; run++) {
        call.first = p->batch * run / runs, call.batch = p->batch * (run + 1) / runs - call.first;
        call.units = call.batch * p->groups, call.next = call.next_packed = 0;
        call.sequences = share_bank ? 1 : call.batch;
        const int64_t tasks = call.sequences * p->groups * call.panels;
        call.chunks = tasks >= threads ? 1 : smaller((2 * threads + tasks - 1) / tasks, widths);
        if (of_sample) {
            call.packed = dyv_memory(DYV_PACKED, (size_t)(call.batch * of_sample));
            if (!call.packed) return 1;
        }
        dyv_run(work_together, &call, threads);
    }
    dyv_trim(DYV_GATES);
    return call.failed;
}

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
    dyv_trim(DYV_GATES);
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
    dyv_trim(DYV_GATES);
    return call.failed;
}

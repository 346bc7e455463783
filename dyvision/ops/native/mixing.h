/* Mixing K kernels: a row of weights is the sum of K rows of the bank, read in the order in which it is stored. */

/* Weights in a row of a tile, beyond its last one as well: whole vectors are written. */
#define TILE_ROW(numbers) (((numbers) + DYV_LANES - 1) / DYV_LANES * DYV_LANES)

struct mixture {
    int64_t kernels, kernel_stride;       /* K, and floats from one kernel of the bank to the next */
    int64_t coefficient_stride;           /* floats from the coefficient of one kernel to the next's */
    const float *end;                     /* of the bank: nothing is read from there on */
    const float *factors;                 /* of the weights of a row, or NULL */
};

/* One row of `numbers` weights; reads and writes whole vectors where the bank does not end within them. */
static void mix_row(
    const struct mixture *m, const float *bank, const float *coefficients, int64_t numbers, float *restrict row
) {
    const int64_t last = (m->kernels - 1) * m->kernel_stride;
    int64_t at = 0;
    for (; at + 4 * DYV_LANES <= numbers; at += 4 * DYV_LANES) {
        const float *from = bank + at;
        float c = coefficients[0];
        vec a = c * load(from), b = c * load(from + DYV_LANES);
        vec d = c * load(from + 2 * DYV_LANES), e = c * load(from + 3 * DYV_LANES);
        for (int64_t k = 1; k < m->kernels; k++) {
            from += m->kernel_stride;
            c = coefficients[k * m->coefficient_stride];
            a += c * load(from), b += c * load(from + DYV_LANES);
            d += c * load(from + 2 * DYV_LANES), e += c * load(from + 3 * DYV_LANES);
        }
        if (m->factors) {
            const float *f = m->factors + at;
            a *= load(f), b *= load(f + DYV_LANES), d *= load(f + 2 * DYV_LANES), e *= load(f + 3 * DYV_LANES);
        }
        store(row + at, a), store(row + at + DYV_LANES, b);
        store(row + at + 2 * DYV_LANES, d), store(row + at + 3 * DYV_LANES, e);
    }
    for (; at < numbers && m->end - (bank + last + at) >= DYV_LANES; at += DYV_LANES) {
        vec a = coefficients[0] * load(bank + at);
        for (int64_t k = 1; k < m->kernels; k++)
            a += coefficients[k * m->coefficient_stride] * load(bank + k * m->kernel_stride + at);
        store(row + at, m->factors ? a * load(m->factors + at) : a);
    }
    for (; at < numbers; at++) {
        float a = coefficients[0] * bank[at];
        for (int64_t k = 1; k < m->kernels; k++)
            a += coefficients[k * m->coefficient_stride] * bank[k * m->kernel_stride + at];
        row[at] = m->factors ? a * m->factors[at] : a;
    }
}

/* Bias of output channel `channel` of a sample. */
static float bias_of(const struct call *call, int64_t sample, int64_t channel) {
    const dyv_problem *p = &call->plan->problem;
    const float *bias = call->tensors->bias, *mix = call->tensors->coefficients;
    if (p->bias == DYV_BIAS_OF_CHANNELS) return bias[channel];
    if (p->bias == DYV_BIAS_OF_SAMPLES) return bias[sample * p->out_channels + channel];
    float sum = 0.0f;
    for (int64_t k = 0; k < p->kernels; k++) {
        const int64_t at = sample * p->kernels + k;
        sum += mix[p->per_channel ? at * p->out_channels + channel : at] * bias[k * p->out_channels + channel];
    }
    return sum;
}

/* What multiplies weights [first, first + numbers) of a row; of several rows, of one input channel each, it repeats. */
static void write_factors(const struct call *call, int64_t sample, int64_t first, int64_t numbers, float *factors) {
    const dyv_plan *plan = call->plan;
    const int64_t period = plan->problem.by_channel ? plan->inner : plan->taps;
    const float *from = call->tensors->factors + sample * period;
    for (int64_t i = 0, at = first % period; i < numbers; i++, at = at + 1 == period ? 0 : at + 1) factors[i] = from[at];
    for (int64_t i = numbers; i < TILE_ROW(numbers); i++) factors[i] = 0.0f;
}

/* The rows of a tile: those of output channels from `channel` on, of a block of `numbers` weights from `first` on. */
static void mix_tile(
    const struct call *call, int64_t sample, int64_t channel, int64_t rows, int64_t first, int64_t numbers, float *tile,
    int64_t stride, const float *factors
) {
    const dyv_plan *plan = call->plan;
    const dyv_problem *p = &plan->problem;
    const float *bank = call->tensors->kernels, *coefficients = call->tensors->coefficients;
    const int64_t kernel = p->out_channels * plan->inner, each = p->per_channel ? p->out_channels : 1;
    const struct mixture mixture = {p->kernels, kernel, each, bank + p->kernels * kernel, factors};
    coefficients += sample * p->kernels * each + (p->per_channel ? channel : 0);
    for (int64_t r = 0; r < rows; r++)
        mix_row(
            &mixture, bank + (channel + r) * plan->inner + first, coefficients + (p->per_channel ? r : 0), numbers,
            tile + r * stride
        );
}

/* Add the low-rank part to the rows of a tile, at its tap, for `count` input channels from `first` on. */
static void add_low_rank(
    const struct call *call, int64_t sample, int64_t channel, int64_t rows, int64_t first, int64_t count, float *tile,
    int64_t stride, float *room
) {
    const dyv_plan *plan = call->plan;
    const dyv_tensors *t = call->tensors;
    const float *up = t->up + (sample * plan->problem.out_channels + channel) * t->rank;
    for (int64_t r = 0; r < rows; r += DYV_MOST_ROWS) {
        const int64_t some = smaller(rows - r, DYV_MOST_ROWS);
        multiply_matrix(some, t->rank, count, plan->depth, up + r * t->rank, t->reduce + first, room);
        for (int64_t i = 0; i < some; i++) {
            float *restrict to = tile + (r + i) * stride + t->centre;
            const float *restrict from = room + i * count;
            if (plan->taps == 1)
                for (int64_t c = 0; c < count; c++) to[c] += from[c];
            else
                for (int64_t c = 0; c < count; c++) to[c * plan->taps] += from[c];
        }
    }
}

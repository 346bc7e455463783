/* What predicts coefficients: the mean of each channel, a linear layer with ReLU or none, a linear layer. */

struct perception {
    const dyv_perceptron *p;
    const float *input;
    float *pooled, *hidden, *output;   /* [B, C], [B, A], [B, N] */
    int64_t next[3];                   /* tasks that are taken of each step */
};

static float mean(const float *restrict from, int64_t count) {
    vec a = {0}, b = {0}, c = {0}, d = {0};
    int64_t i = 0;
    for (; i + 4 * DYV_LANES <= count; i += 4 * DYV_LANES) {
        a += load(from + i), b += load(from + i + DYV_LANES);
        c += load(from + i + 2 * DYV_LANES), d += load(from + i + 3 * DYV_LANES);
    }
    for (; i + DYV_LANES <= count; i += DYV_LANES) a += load(from + i);
    float sum = sum_lanes((a + b) + (c + d));
    for (; i < count; i++) sum += from[i];
    return sum / (float)count;
}

/* Rows [first, end) of a linear layer, [B, count] to [B, stride]. */
static void multiply_rows(
    int64_t batch, const float *weights, const float *bias, int64_t count, int64_t first, int64_t end,
    const float *from, int relu, float *to, int64_t stride
) {
    for (int64_t r = first, rows; r < end; r += rows) {
        float sums[4][4];
        rows = end - r >= 4 ? 4 : 1;
        for (int64_t s = 0, samples; s < batch; s += samples) {
            samples = sum_rows(rows, batch - s, weights + r * count, count, from + s * count, count, count, sums);
            for (int64_t i = 0; i < rows; i++)
                for (int64_t j = 0; j < samples; j++) {
                    const float value = sums[i][j] + (bias ? bias[r + i] : 0.0f);
                    to[(s + j) * stride + r + i] = relu && value < 0.0f ? 0.0f : value; /* NaN stays */
                }
        }
    }
}

static void work_perceptron(void *argument, int index, int team) {
    struct perception *call = argument;
    const dyv_perceptron *p = call->p;
    const int64_t maps = p->batch * p->channels, some = maps / (4 * team) + 1;
    (void)index;
    for (int64_t m = take(&call->next[0], some); m < maps; m = take(&call->next[0], some))
        for (int64_t i = m; i < m + some && i < maps; i++)
            call->pooled[i] = mean(call->input + i * p->pixels, p->pixels);
    dyv_wait(team);
    const float *from = call->pooled;
    int64_t count = p->channels;
    if (p->hidden) {
        const int64_t rows = p->hidden / (2 * team) + 1;
        for (int64_t r = take(&call->next[1], rows); r < p->hidden; r = take(&call->next[1], rows))
            multiply_rows(
                p->batch, p->first, p->first_bias, count, r, smaller(r + rows, p->hidden), from, 1, call->hidden,
                p->hidden
            );
        dyv_wait(team);
        from = call->hidden, count = p->hidden;
    }
    const int64_t rows = p->outputs / (2 * team) + 1;
    for (int64_t r = take(&call->next[2], rows); r < p->outputs; r = take(&call->next[2], rows))
        multiply_rows(
            p->batch, p->second, p->second_bias, count, r, smaller(r + rows, p->outputs), from, 0, call->output,
            p->outputs
        );
}

/* Returns 0, or 1 if there was no memory. */
int DYV_PERCEIVE(const dyv_perceptron *p, const float *input, float *output, int threads) {
    struct perception call = {.p = p, .input = input, .output = output};
    call.pooled = dyv_memory(DYV_PACKED, (size_t)(p->batch * p->channels));
    call.hidden = dyv_memory(DYV_TILE, (size_t)(p->batch * p->hidden + 1));
    if (!call.pooled || !call.hidden) return 1;
    const double work = (double)(p->batch * p->channels) * (double)(p->pixels + p->hidden)
        + (double)(p->batch * p->outputs) * (double)(p->hidden ? p->hidden : p->channels);
    dyv_run(work_perceptron, &call, (int)smaller(threads, 1 + (int64_t)(work / 100000.0)));
    if (p->sigmoid) apply_sigmoid(output, p->batch * p->outputs);
    return 0;
}

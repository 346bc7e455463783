/* Kernels with a low-rank part that depends on the input (DCD): the branch that predicts it, and what follows from it. */

struct fusion {
    const dyv_low_rank *p;
    float *pooled, *squeezed, *embedded; /* [B, C p p], [B, S], [B, S] */
    float *predicted, *centre;           /* [B, O + L L], [B, L] */
    int64_t next[6];                     /* tasks that are taken of each step */
};

/* relu6(z + 3) / 3; NaN stays. */
INLINE float hard_sigmoid2(float z) {
    z += 3.0f;
    return (z < 0.0f ? 0.0f : z > 6.0f ? 6.0f : z) / 3.0f;
}

/* Means of the p x p parts of a map, as adaptive pooling divides it. */
static void pool_parts(const dyv_low_rank *p, const float *map, float *to) {
    if (p->pool == 1) {
        *to = mean(map, p->height * p->width);
        return;
    }
    for (int64_t y = 0; y < p->pool; y++) {
        const int64_t top = y * p->height / p->pool, bottom = ((y + 1) * p->height + p->pool - 1) / p->pool;
        for (int64_t x = 0; x < p->pool; x++) {
            const int64_t left = x * p->width / p->pool, right = ((x + 1) * p->width + p->pool - 1) / p->pool;
            float sum = 0.0f;
            for (int64_t row = top; row < bottom; row++)
                sum += mean(map + row * p->width + left, right - left) * (float)(right - left);
            to[y * p->pool + x] = sum / (float)((bottom - top) * (right - left));
        }
    }
}

/* Output channels [first, end) of a sample: their part of P Phi, and of the shift. */
static void write_outputs(const struct fusion *call, int64_t sample, int64_t first, int64_t end) {
    const dyv_low_rank *p = call->p;
    const float *phi = call->predicted + sample * (p->outputs + p->rank * p->rank) + p->outputs;
    float *scale = p->scale + sample * p->outputs, *shift = p->shift + sample * p->outputs;
    float *up = p->up + sample * p->outputs * p->rank;
    for (int64_t o = first; o < end; o += DYV_MOST_ROWS) {
        const int64_t rows = smaller(end - o, DYV_MOST_ROWS);
        multiply_matrix(rows, p->rank, p->rank, p->rank, p->expand + o * p->rank, phi, up + o * p->rank);
        for (int64_t r = o; r < o + rows; r++) {
            float sum = p->expand_bias ? p->expand_bias[r] : 0.0f;
            for (int64_t l = 0; l < p->rank; l++) sum += p->expand[r * p->rank + l] * call->centre[sample * p->rank + l];
            shift[r] = p->bias ? sum + scale[r] * p->bias[r] : sum;
        }
    }
}

static void work_low_rank(void *argument, int index, int team) {
    struct fusion *call = argument;
    const dyv_low_rank *p = call->p;
    const int64_t maps = p->batch * p->channels, parts = p->pool * p->pool, pixels = p->height * p->width;
    const int64_t numbers = p->outputs + p->rank * p->rank;
    (void)index;
    const int64_t some = maps / (4 * team) + 1;
    for (int64_t m = take(&call->next[0], some); m < maps; m = take(&call->next[0], some))
        for (int64_t i = m; i < m + some && i < maps; i++)
            pool_parts(p, p->input + i * pixels, call->pooled + i * parts);
    dyv_wait(team);
    int64_t rows = p->width_of_branch / (2 * team) + 1;
    for (int64_t r = take(&call->next[1], rows); r < p->width_of_branch; r = take(&call->next[1], rows))
        multiply_rows(
            p->batch, p->squeeze, NULL, p->channels * parts, r, smaller(r + rows, p->width_of_branch), call->pooled, 0,
            call->squeezed, p->width_of_branch
        );
    dyv_wait(team);
    for (int64_t r = take(&call->next[2], rows); r < p->width_of_branch; r = take(&call->next[2], rows)) {
        const int64_t end = smaller(r + rows, p->width_of_branch);
        multiply_rows(
            p->batch, p->gate, NULL, p->width_of_branch, r, end, call->squeezed, 0, call->embedded, p->width_of_branch
        );
        for (int64_t s = 0; s < p->batch; s++)
            for (int64_t i = s * p->width_of_branch + r; i < s * p->width_of_branch + end; i++)
                call->embedded[i] = call->squeezed[i] * hard_sigmoid2(call->embedded[i]);
    }
    dyv_wait(team);
    rows = numbers / (4 * team) + 1;
    for (int64_t r = take(&call->next[3], rows); r < numbers; r = take(&call->next[3], rows)) {
        const int64_t end = smaller(r + rows, numbers);
        multiply_rows(
            p->batch, p->predict, p->predict_bias, p->width_of_branch, r, end, call->embedded, 0, call->predicted, numbers
        );
        for (int64_t s = 0; s < p->batch; s++)
            for (int64_t o = r; o < end && o < p->outputs; o++)
                p->scale[s * p->outputs + o] = hard_sigmoid2(call->predicted[s * numbers + o]);
    }
    dyv_wait(team);
    for (int64_t s = take(&call->next[4], 1); s < p->batch; s = take(&call->next[4], 1)) {
        const float *phi = call->predicted + s * numbers + p->outputs;
        multiply_rows(1, phi, NULL, p->rank, 0, p->rank, p->reduce_bias, 0, call->centre + s * p->rank, p->rank);
    }
    dyv_wait(team);
    const int64_t each = smaller(p->outputs, (p->outputs / (4 * team * DYV_MOST_ROWS) + 1) * DYV_MOST_ROWS);
    const int64_t blocks = (p->outputs + each - 1) / each, tasks = p->batch * blocks;
    for (int64_t t = take(&call->next[5], 1); t < tasks; t = take(&call->next[5], 1)) {
        const int64_t first = t % blocks * each;
        write_outputs(call, t / blocks, first, smaller(first + each, p->outputs));
    }
}

/* Returns 0, or 1 if there was no memory. */
int DYV_FUSE(const dyv_low_rank *p, int threads) {
    struct fusion call = {.p = p};
    const int64_t numbers = p->outputs + p->rank * p->rank, parts = p->pool * p->pool;
    call.pooled = dyv_memory(DYV_PACKED, (size_t)(p->batch * p->channels * parts));
    float *others = dyv_memory(DYV_TILE, (size_t)(p->batch * (2 * p->width_of_branch + numbers + p->rank)));
    if (!call.pooled || !others) return 1;
    call.squeezed = others, call.embedded = others + p->batch * p->width_of_branch;
    call.predicted = call.embedded + p->batch * p->width_of_branch, call.centre = call.predicted + p->batch * numbers;
    const double work = (double)p->batch
        * ((double)p->channels * (double)(p->height * p->width + p->width_of_branch * parts)
           + (double)numbers * (double)p->width_of_branch
           + (double)p->outputs * (double)p->rank * (double)p->rank);
    dyv_run(work_low_rank, &call, (int)smaller(threads, 1 + (int64_t)(work / 100000.0)));
    return 0;
}

/*
 * The whole layer: branch, and the convolution with scale W0 + P Phi Q, whose second part acts at one tap. It is added
 * to the kernels as they are mixed, or applied to maps. Returns 0, or 1 if there was no memory.
 */
int DYV_LOW_RANK(const dyv_low_rank *p, const dyv_low_rank_plans *plans, const dyv_tensors *given, int threads) {
    const int64_t scales = p->batch * p->outputs, ups = scales * p->rank;
    const int64_t maps = plans->expand ? p->batch * p->rank * plans->expand->pixels : 0;
    float *memory = dyv_memory(DYV_GATES, (size_t)(2 * scales + ups + maps + p->batch));
    if (!memory) return 1;
    dyv_low_rank layer = *p;
    layer.scale = memory, layer.shift = memory + scales, layer.up = memory + 2 * scales;
    float *low = layer.up + ups, *ones = low + maps;
    if (DYV_FUSE(&layer, threads)) return 1;
    dyv_tensors tensors = *given;
    tensors.coefficients = layer.scale, tensors.bias = layer.shift;
    if (!plans->expand) {
        tensors.up = layer.up, tensors.reduce = p->reduce, tensors.rank = p->rank, tensors.centre = plans->centre;
    }
    int failed = DYV_CONVOLVE(plans->whole, &tensors, threads);
    if (plans->expand && !failed) {
        for (int64_t sample = 0; sample < p->batch; sample++) ones[sample] = 1.0f;
        const dyv_tensors down = {.input = given->input, .kernels = p->reduce, .coefficients = ones, .output = low};
        const dyv_tensors up = {.input = low, .kernels = layer.up, .output = given->output};
        failed = DYV_CONVOLVE(plans->reduce, &down, threads) || DYV_CONVOLVE(plans->expand, &up, threads);
    }
    dyv_trim(DYV_PURPOSES);
    return failed;
}

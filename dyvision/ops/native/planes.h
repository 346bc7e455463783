/* The input as planes, and back to rows of pixels. */

struct call {
    const dyv_plan *plan;
    const dyv_tensors *tensors;
    int64_t units;                     /* samples times groups: each has its own weights and its own channels */
    int64_t panels, chunks, sequences; /* parts of the output channels, the pixels and the samples, if work is shared */
    int64_t next, next_packed;         /* tasks that are taken */
    float *packed;                     /* of all units, if work is shared */
    int failed;
};

static int64_t unit_floats(const dyv_plan *plan) { return plan->depth * plan->plane + 2 * DYV_LANES; }

/* Copy one channel into its planes. */
static void pack_channel(const dyv_plan *plan, const float *restrict map, float *restrict planes) {
    const dyv_problem *p = &plan->problem;
    const int64_t width = plan->phase_w, step = p->stride_w;
    for (int64_t phase = 0; phase < plan->phases; phase++) {
        const int64_t y = plan->phase_y[phase] - p->top, x = plan->phase_x[phase] - p->left;
        /* columns of the plane that lie in the map: first <= column < end */
        int64_t first = x < 0 ? (-x + step - 1) / step : 0;
        int64_t end = p->in_w > x ? (p->in_w - x + step - 1) / step : 0;
        if (first > width) first = width;
        if (end > width) end = width;
        if (end < first) end = first;
        for (int64_t line = 0; line < plan->phase_h; line++, planes += width) {
            const int64_t row = line * p->stride_h + y;
            if (row < 0 || row >= p->in_h) {
                memset(planes, 0, (size_t)width * sizeof(float));
                continue;
            }
            const float *from = map + row * p->in_w + x;
            for (int64_t column = 0; column < first; column++) planes[column] = 0.0f;
            if (step == 1)
                memcpy(planes + first, from + first, (size_t)(end - first) * sizeof(float));
            else
                for (int64_t column = first; column < end; column++) planes[column] = from[column * step];
            for (int64_t column = end; column < width; column++) planes[column] = 0.0f;
        }
    }
}

/* Input planes of a unit. */
static const float *map_of(const struct call *call, int64_t unit) {
    return call->tensors->input + unit * call->plan->depth * call->plan->problem.in_h * call->plan->problem.in_w;
}

static void pack_unit(const struct call *call, int64_t unit, int64_t first, int64_t end, float *planes) {
    const dyv_plan *plan = call->plan;
    const float *map = map_of(call, unit);
    for (int64_t channel = first; channel < end; channel++)
        pack_channel(plan, map + channel * plan->problem.in_h * plan->problem.in_w, planes + channel * plan->plane);
    /* vectors reach beyond the last plane */
    if (end == plan->depth) memset(planes + end * plan->plane, 0, 2 * DYV_LANES * sizeof(float));
}

/* From sums in vectors to rows of pixels. */
static void unpack(const dyv_plan *plan, const float *restrict sums, int64_t first, int64_t end, float *restrict out) {
    for (int64_t v = first; v < end; v++, sums += DYV_LANES) {
        const uint8_t *lane = plan->lane + v * DYV_LANES;
        float *to = out + plan->pixel[v];
        for (int64_t i = 0; i < plan->count[v]; i++) to[i] = sums[lane[i]];
    }
}

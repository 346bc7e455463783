/* The input as planes, and back to rows of pixels. */

struct call {
    const dyv_plan *plan;
    const dyv_tensors *tensors;
    int64_t first, batch;              /* samples that are computed together */
    int64_t units;                     /* these times groups: each has its own weights and its own channels */
    int64_t panels, chunks, sequences; /* parts of the output channels, the pixels and the samples, if work is shared */
    int64_t next, next_packed;         /* tasks that are taken */
    float *packed;                     /* of all units, if work is shared */
    int failed;
};

/* Where the columns of the last pixels are, behind the planes: what the weights of a row are multiplied by. */
static int64_t place_of_columns(const dyv_plan *plan) { return plan->depth * plan->plane + plan->reach + 2 * DYV_LANES; }

static int64_t unit_floats(const dyv_plan *plan) { return place_of_columns(plan) + plan->rest * plan->inner; }

/* The first of the next `count` tasks. */
static int64_t take(int64_t *counter, int64_t count) { return __atomic_fetch_add(counter, count, __ATOMIC_RELAXED); }

/*
 * Copy a channel into its planes: those rows that output rows from `top` on see. With `clean`, the zeros beside the
 * map are there already.
 */
static void pack_channel(
    const dyv_plan *plan, const float *restrict map, int64_t top, int clean, float *restrict planes
) {
    const dyv_problem *p = &plan->problem;
    const int64_t width = plan->pitch, step = p->stride_w;
    for (int64_t phase = 0; phase < plan->phases; phase++) {
        const int64_t y = plan->phase_y[phase] - p->top, x = plan->phase_x[phase] - p->left;
        const int64_t first = plan->phase_first[phase], end = plan->phase_end[phase];
        for (int64_t line = 0; line < plan->phase_h; line++, planes += plan->pitch) {
            const int64_t row = (top + line) * p->stride_h + y;
            if (row < 0 || row >= p->in_h) {
                clear(planes, width);
                continue;
            }
            const float *from = map + row * p->in_w + x;
            if (step == 1)
                copy(planes + first, from + first, end - first);
            else if (step == 2)
                copy_every_second(planes + first, from + 2 * first, end - first);
            else
                for (int64_t column = first; column < end; column++) planes[column] = from[column * step];
            if (clean) continue;
            for (int64_t column = 0; column < first; column++) planes[column] = 0.0f;
            for (int64_t column = end; column < width; column++) planes[column] = 0.0f;
        }
    }
}

/* Input planes of a unit. */
static const float *map_of(const struct call *call, int64_t unit) {
    return call->tensors->input + unit * call->plan->depth * call->plan->problem.in_h * call->plan->problem.in_w;
}

/* Columns [rest, inner] of the last pixels, from the planes of one channel. */
static void write_last_columns(const dyv_plan *plan, const float *plane, int64_t channel, float *columns) {
    for (int64_t r = 0; r < plan->rest; r++) {
        const float *from = plane + plan->pixels - plan->rest + r;
        for (int64_t t = 0; t < plan->taps; t++)
            columns[r * plan->inner + channel * plan->taps + t] = from[plan->tap_offset[t]];
    }
}

static void pack_unit(const struct call *call, int64_t unit, int64_t first, int64_t end, float *planes) {
    const dyv_plan *plan = call->plan;
    const float *map = map_of(call, unit);
    const int64_t size = plan->problem.in_h * plan->problem.in_w;
    for (int64_t channel = first; channel < end; channel++)
        pack_channel(plan, map + channel * size, 0, 0, planes + channel * plan->plane);
    for (int64_t channel = first; channel < end; channel++)
        write_last_columns(plan, planes + channel * plan->plane, channel, planes + place_of_columns(plan));
    /* vectors reach beyond the last plane */
    if (end == plan->depth)
        memset(planes + end * plan->plane, 0, (size_t)(plan->reach + 2 * DYV_LANES) * sizeof(float));
}

/* First float of a vector in a plane; without gaps the last one ends with the map, and repeats pixels. */
INLINE int64_t start_of(const dyv_plan *plan, int64_t vector) {
    const int64_t start = vector * DYV_LANES;
    return plan->gapless && plan->pixels >= DYV_LANES ? smaller(start, plan->pixels - DYV_LANES) : start;
}

/* From sums of vectors [first, end) to rows of pixels. */
static void unpack(const dyv_plan *plan, const float *restrict sums, int64_t first, int64_t end, float *restrict out) {
    const int64_t width = plan->problem.out_w, pitch = plan->pitch, from = start_of(plan, first);
    if (plan->gapless) {
        for (int64_t v = first; v < end; v++, sums += DYV_LANES) {
            const int64_t start = start_of(plan, v);
            copy(out + start, sums, smaller(plan->pixels - start, DYV_LANES));
        }
        return;
    }
    for (int64_t row = from / pitch; row < plan->problem.out_h && row * pitch < end * DYV_LANES; row++) {
        const int64_t begin = row * pitch < from ? from - row * pitch : 0;
        const int64_t stop = smaller(width, end * DYV_LANES - row * pitch);
        if (stop > begin) copy(out + row * width + begin, sums + row * pitch + begin - from, stop - begin);
    }
}

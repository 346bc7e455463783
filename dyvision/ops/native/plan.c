/* What does not depend on numbers: the planes of a channel, where taps begin in them, how many vectors there are. */
#include <stdlib.h>

#include "problem.h"

/* Floats of a channel's planes that are computed at a time where it is computed alone. */
#define STRIP 4096

void dyv_free(dyv_plan *plan) {
    if (!plan) return;
    free(plan->phase_y), free(plan->phase_x), free(plan->phase_first), free(plan->phase_end);
    free(plan->tap_offset);
    free(plan);
}

static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

/* Planes that taps read, each once, and where in them. */
static void place_taps(dyv_plan *plan) {
    const dyv_problem *p = &plan->problem;
    plan->phases = 0;
    for (int64_t tap = 0; tap < plan->taps; tap++) {
        const int64_t y = tap / p->kernel_w * p->dilation_h, x = tap % p->kernel_w * p->dilation_w;
        const int64_t first_y = y % p->stride_h, first_x = plan->gapless ? x : x % p->stride_w;
        int64_t phase = 0;
        while (phase < plan->phases && (plan->phase_y[phase] != first_y || plan->phase_x[phase] != first_x)) phase++;
        if (phase == plan->phases) {
            plan->phase_y[phase] = (int32_t)first_y, plan->phase_x[phase] = (int32_t)first_x;
            plan->phases++;
        }
        const int64_t line = phase * plan->phase_h + y / p->stride_h;
        plan->tap_offset[tap] = (int32_t)(line * plan->pitch + (x - first_x) / p->stride_w);
    }
    plan->plane = plan->phases * plan->phase_h * plan->pitch;
    for (int64_t phase = 0; phase < plan->phases; phase++) {
        const int64_t x = plan->phase_x[phase] - p->left, step = p->stride_w;
        const int64_t first = smaller(x < 0 ? (-x + step - 1) / step : 0, plan->pitch);
        const int64_t end = smaller(p->in_w > x ? (p->in_w - x + step - 1) / step : 0, plan->pitch);
        plan->phase_first[phase] = (int32_t)first, plan->phase_end[phase] = (int32_t)larger(first, end);
    }
}

/* Zeros that every row of every plane has both at its start and at its end. */
static int64_t shared_zeros(const dyv_plan *plan) {
    int64_t shared = plan->reach;
    for (int64_t phase = 0; phase < plan->phases; phase++)
        shared = smaller(shared, smaller(plan->phase_first[phase], plan->pitch - plan->phase_end[phase]));
    return shared;
}

static int64_t count_vectors(const dyv_plan *plan, int64_t rows) {
    return ((rows - 1) * plan->pitch + plan->problem.out_w + plan->lanes - 1) / plan->lanes;
}

dyv_plan *dyv_plan_for(const dyv_problem *problem, int64_t lanes) {
    const dyv_problem *p = problem;
    dyv_plan *plan = calloc(1, sizeof(dyv_plan));
    if (!plan) return NULL;
    plan->problem = *p, plan->lanes = lanes;
    plan->rows = p->out_channels / p->groups, plan->depth = p->in_channels / p->groups;
    plan->taps = p->kernel_h * p->kernel_w, plan->inner = plan->depth * plan->taps;
    plan->pixels = p->out_h * p->out_w;
    plan->direct = plan->taps == 1 && p->stride_h == 1 && p->stride_w == 1 && plan->pixels == p->in_h * p->in_w
        && plan->pixels >= lanes;
    const int64_t below = (p->kernel_h - 1) * p->dilation_h / p->stride_h;
    plan->reach = (p->kernel_w - 1) * p->dilation_w / p->stride_w;
    const double largest = (double)(p->out_h + below) * (double)(p->out_w + plan->reach) * (double)plan->taps;
    const size_t taps = (size_t)plan->taps;
    plan->phase_y = calloc(taps, sizeof(int32_t)), plan->phase_x = calloc(taps, sizeof(int32_t));
    plan->phase_first = calloc(taps, sizeof(int32_t)), plan->phase_end = calloc(taps, sizeof(int32_t));
    plan->tap_offset = calloc(taps, sizeof(int32_t));
    const int complete = plan->phase_y && plan->phase_x && plan->phase_first && plan->phase_end && plan->tap_offset;
    const int kept = !p->accumulate || (plan->direct && plan->depth <= DYV_BLOCK);
    if (largest > 1e9 || !complete || !kept) return dyv_free(plan), NULL;
    plan->phase_h = p->out_h + below, plan->pitch = p->out_w + plan->reach;
    place_taps(plan);
    plan->pitch -= shared_zeros(plan);
    if (plan->depth == 1 && !plan->direct) {
        const int64_t fitting = STRIP / (plan->pitch * plan->phases) - below;
        plan->strip = smaller(larger(fitting, 4), p->out_h);
        plan->strips = (p->out_h + plan->strip - 1) / plan->strip;
        plan->strip = (p->out_h + plan->strips - 1) / plan->strips;
        plan->phase_h = plan->strip + below;
        plan->vectors = count_vectors(plan, plan->strip);
    } else {
        /* a few pixels more than fill the vectors are no reason for another one */
        const int64_t beyond = plan->pixels % lanes, rest = plan->pixels > lanes && beyond <= lanes / 3 ? beyond : 0;
        const int64_t without = (plan->pixels - rest + lanes - 1) / lanes;
        plan->gapless = plan->direct || plan->pitch == p->out_w || 14 * without <= 13 * count_vectors(plan, p->out_h);
        if (plan->gapless) plan->pitch = p->out_w, plan->reach = 0;
        plan->rest = plan->gapless ? rest : 0;
        plan->vectors = plan->gapless ? without : count_vectors(plan, p->out_h);
    }
    place_taps(plan);
    return plan;
}

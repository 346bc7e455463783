/* What does not depend on numbers: the planes, where taps and vectors begin in them, which lanes are output pixels. */
#include <stdlib.h>
#include <string.h>

#include "problem.h"

void dyv_free(dyv_plan *plan) {
    if (!plan) return;
    free(plan->phase_y), free(plan->phase_x), free(plan->tap_offset);
    free(plan->start), free(plan->pixel), free(plan->count), free(plan->lane);
    free(plan);
}

static int allocate(dyv_plan *plan) {
    const size_t vectors = (size_t)plan->vectors, taps = (size_t)plan->taps;
    plan->phase_y = calloc(taps, sizeof(int32_t)), plan->phase_x = calloc(taps, sizeof(int32_t));
    plan->tap_offset = calloc(taps, sizeof(int32_t));
    plan->start = calloc(vectors, sizeof(int32_t)), plan->pixel = calloc(vectors, sizeof(int32_t));
    plan->count = calloc(vectors, sizeof(int32_t)), plan->lane = calloc(vectors, (size_t)plan->lanes);
    return plan->phase_y && plan->phase_x && plan->tap_offset && plan->start && plan->pixel && plan->count
        && plan->lane;
}

/* Planes that taps read, each once, and where in them. */
static void place_taps(dyv_plan *plan) {
    const dyv_problem *p = &plan->problem;
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
        plan->tap_offset[tap] = (int32_t)(line * plan->phase_w + (x - first_x) / p->stride_w);
    }
    plan->plane = plan->phases * plan->phase_h * plan->phase_w;
}

/* Vectors that cover the output pixels of a plane: each begins at the first pixel that none has. */
static int64_t place_vectors(dyv_plan *plan, int write) {
    const dyv_problem *p = &plan->problem;
    const int64_t lanes = plan->lanes, width = plan->phase_w;
    int64_t vector = 0;
    for (int64_t pixel = 0; pixel < plan->pixels; vector++) {
        const int64_t start = pixel / p->out_w * width + pixel % p->out_w, first = pixel;
        int64_t at = start;
        while (pixel < plan->pixels && (at = pixel / p->out_w * width + pixel % p->out_w) < start + lanes) {
            if (write) plan->lane[vector * lanes + pixel - first] = (uint8_t)(at - start);
            pixel++;
        }
        if (write) {
            plan->start[vector] = (int32_t)start;
            plan->pixel[vector] = (int32_t)first, plan->count[vector] = (int32_t)(pixel - first);
        }
    }
    return vector;
}

dyv_plan *dyv_plan_for(const dyv_problem *problem, int64_t lanes) {
    const dyv_problem *p = problem;
    dyv_plan *plan = calloc(1, sizeof(dyv_plan));
    if (!plan) return NULL;
    plan->problem = *p, plan->lanes = lanes;
    plan->rows = p->out_channels / p->groups, plan->depth = p->in_channels / p->groups;
    plan->taps = p->kernel_h * p->kernel_w, plan->inner = plan->depth * plan->taps;
    plan->pixels = p->out_h * p->out_w;
    plan->phase_h = p->out_h + (p->kernel_h - 1) * p->dilation_h / p->stride_h;
    plan->phase_w = p->out_w + (p->kernel_w - 1) * p->dilation_w / p->stride_w;
    plan->direct = plan->taps == 1 && p->stride_h == 1 && p->stride_w == 1 && plan->pixels == p->in_h * p->in_w
        && plan->pixels >= lanes;
    const double largest = (double)plan->phase_h * (double)plan->phase_w * (double)plan->taps;
    if (largest > 1e9) return dyv_free(plan), NULL;
    const int64_t with_gaps = place_vectors(plan, 0), without = (plan->pixels + lanes - 1) / lanes;
    plan->gapless = plan->direct || plan->phase_w == p->out_w || 12 * without <= 11 * with_gaps;
    if (plan->gapless) plan->phase_w = p->out_w;
    plan->vectors = plan->gapless ? without : with_gaps;
    if (!allocate(plan)) return dyv_free(plan), NULL;
    place_taps(plan);
    place_vectors(plan, 1);
    if (plan->gapless && plan->pixels >= lanes) {
        /* nothing is read or written beyond the map: the last vector ends with it, and repeats pixels */
        const int64_t last = plan->vectors - 1;
        plan->start[last] = plan->pixel[last] = (int32_t)(plan->pixels - lanes), plan->count[last] = (int32_t)lanes;
        for (int64_t i = 0; i < lanes; i++) plan->lane[last * lanes + i] = (uint8_t)i;
    }
    return plan;
}

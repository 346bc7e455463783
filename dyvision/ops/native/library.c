/* What Python calls: which instruction sets this machine has, and the functions in one of them. */
#include <string.h>

#include "problem.h"

#define DECLARE(SET)                                                                                             \
    int dyv_convolve_##SET(const dyv_plan *, const dyv_tensors *, int);                                          \
    int dyv_perceive_##SET(const dyv_perceptron *, const float *, float *, int);                                 \
    int dyv_layer_##SET(const dyv_layer *, const dyv_plan *, const dyv_tensors *, int);                          \
    int dyv_fuse_##SET(const dyv_low_rank *, int);                                                               \
    int dyv_low_rank_##SET(const dyv_low_rank *, const dyv_low_rank_plans *, const dyv_tensors *, int);          \
    int dyv_differentiate_##SET(const dyv_problem *, const dyv_gradients *, int);
#define FUNCTIONS(SET)                                                                                           \
    dyv_convolve_##SET, dyv_perceive_##SET, dyv_layer_##SET, dyv_fuse_##SET, dyv_low_rank_##SET,                 \
        dyv_differentiate_##SET

DECLARE(generic)
#if defined(__x86_64__)
DECLARE(avx2)
DECLARE(avx512)
static int has_avx2(void) {
    __builtin_cpu_init(); /* not every compiler's runtime has asked the processor when it is loaded */
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}
static int has_avx512(void) { return has_avx2() && __builtin_cpu_supports("avx512f"); }
#elif defined(__aarch64__)
DECLARE(neon)
#endif
static int always(void) { return 1; }

static const struct {
    const char *name;
    int64_t lanes;
    int (*present)(void);
    dyv_convolve_function convolve;
    dyv_perceive_function perceive;
    dyv_layer_function layer;
    dyv_fuse_function fuse;
    dyv_low_rank_function low_rank;
    dyv_differentiate_function differentiate;
} sets[] = {
#if defined(__x86_64__)
    {"avx512", 16, has_avx512, FUNCTIONS(avx512)},
    {"avx2", 8, has_avx2, FUNCTIONS(avx2)},
#elif defined(__aarch64__)
    {"neon", 4, always, FUNCTIONS(neon)},
#endif
    {"generic", 4, always, FUNCTIONS(generic)},
};

int64_t dyv_abi(void) { return DYV_ABI; }

int64_t dyv_problem_size(void) { return (int64_t)sizeof(dyv_problem); }

/* Name of the instruction set `index`, the fastest first, if the machine has it: "" if not, NULL beyond the last. */
const char *dyv_instruction_set(int64_t index) {
    if (index < 0 || index >= (int64_t)(sizeof sets / sizeof *sets)) return NULL;
    return sets[index].present() ? sets[index].name : "";
}

/* What a convolution needs beside its tensors, for dyv_free in the end; NULL if it cannot be computed. */
dyv_plan *dyv_prepare(int64_t index, const dyv_problem *problem) { return dyv_plan_for(problem, sets[index].lanes); }

int64_t dyv_convolve(
    int64_t index, const dyv_plan *plan, const float *input, const float *kernels, const float *coefficients,
    const float *factors, const float *bias, float *output, int64_t threads
) {
    const dyv_tensors tensors = {input, kernels, coefficients, factors, bias, output, NULL, NULL, 0, 0};
    return sets[index].convolve(plan, &tensors, (int)threads);
}

int64_t dyv_perceive(
    int64_t index, int64_t batch, int64_t channels, int64_t pixels, int64_t hidden, int64_t outputs, int64_t sigmoid,
    const float *input, const float *first, const float *first_bias, const float *second, const float *second_bias,
    float *output, int64_t threads
) {
    const dyv_perceptron perceptron = {
        batch, channels, pixels, hidden, outputs, first, first_bias, second, second_bias, sigmoid
    };
    return sets[index].perceive(&perceptron, input, output, (int)threads);
}

/* The plan is that of the convolution, with `kernel` kernels, or one if the branch predicts none. */
int64_t dyv_apply_layer(
    int64_t index, const dyv_plan *plan, int64_t hidden, int64_t channel, int64_t filter, int64_t tap, int64_t kernel,
    int64_t softmax, const float *input, const float *first, const float *first_bias, const float *second,
    const float *second_bias, const float *kernels, const float *bias, float *output, int64_t threads
) {
    const dyv_layer layer = {
        {.hidden = hidden, .first = first, .first_bias = first_bias, .second = second, .second_bias = second_bias},
        channel, filter, tap, kernel, softmax,
    };
    const dyv_tensors tensors = {.input = input, .kernels = kernels, .bias = bias, .output = output};
    return sets[index].layer(&layer, plan, &tensors, (int)threads);
}

int64_t dyv_fuse(
    int64_t index, int64_t batch, int64_t channels, int64_t height, int64_t width, int64_t pool, int64_t width_of_branch,
    int64_t outputs, int64_t rank, const float *input, const float *squeeze, const float *gate, const float *predict,
    const float *predict_bias, const float *expand, const float *expand_bias, const float *reduce,
    const float *reduce_bias, const float *bias, float *scale, float *up, float *shift, int64_t threads
) {
    const dyv_low_rank low_rank = {
        batch, channels, height, width, pool, width_of_branch, outputs, rank, input, squeeze, gate, predict, predict_bias,
        expand, expand_bias, reduce, reduce_bias, bias, scale, up, shift
    };
    return sets[index].fuse(&low_rank, (int)threads);
}

/* The plans: with W0 as one kernel that is mixed by output channel, with a bias of samples; and NULL, or with Q and P. */
int64_t dyv_apply_low_rank(
    int64_t index, const dyv_plan *plan, const dyv_plan *down, const dyv_plan *up, int64_t centre, int64_t pool,
    int64_t width_of_branch, int64_t rank, const float *input, const float *squeeze, const float *gate,
    const float *predict, const float *predict_bias, const float *expand, const float *expand_bias, const float *reduce,
    const float *reduce_bias, const float *bias, const float *weight, float *output, int64_t threads
) {
    const dyv_problem *p = &plan->problem;
    const dyv_low_rank low_rank = {
        p->batch, p->in_channels, p->in_h, p->in_w, pool, width_of_branch, p->out_channels, rank, input, squeeze, gate,
        predict, predict_bias, expand, expand_bias, reduce, reduce_bias, bias, NULL, NULL, NULL
    };
    const dyv_low_rank_plans plans = {plan, down, up, centre};
    const dyv_tensors tensors = {.input = input, .kernels = weight, .output = output};
    return sets[index].low_rank(&low_rank, &plans, &tensors, (int)threads);
}

int64_t dyv_differentiate(
    int64_t index, const dyv_problem *problem, const float *grad, const float *input, const float *kernels,
    const float *coefficients, const float *factors, float *grad_input, float *grad_kernels, float *grad_coefficients,
    float *grad_factors, int64_t threads
) {
    const dyv_gradients gradients = {
        grad, input, kernels, coefficients, factors, grad_input, grad_kernels, grad_coefficients, grad_factors
    };
    return sets[index].differentiate(problem, &gradients, (int)threads);
}

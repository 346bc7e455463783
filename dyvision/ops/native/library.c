/* What Python calls: which instruction sets this machine has, and the functions in one of them. */
#include <string.h>

#include "problem.h"

int dyv_convolve_generic(const dyv_plan *, const dyv_tensors *, int);
int dyv_perceive_generic(const dyv_perceptron *, const float *, float *, int);
int dyv_fuse_generic(const dyv_low_rank *, int);
int dyv_differentiate_generic(const dyv_problem *, const dyv_gradients *, int);
#if defined(__x86_64__)
int dyv_convolve_avx2(const dyv_plan *, const dyv_tensors *, int);
int dyv_perceive_avx2(const dyv_perceptron *, const float *, float *, int);
int dyv_fuse_avx2(const dyv_low_rank *, int);
int dyv_differentiate_avx2(const dyv_problem *, const dyv_gradients *, int);
int dyv_convolve_avx512(const dyv_plan *, const dyv_tensors *, int);
int dyv_perceive_avx512(const dyv_perceptron *, const float *, float *, int);
int dyv_fuse_avx512(const dyv_low_rank *, int);
int dyv_differentiate_avx512(const dyv_problem *, const dyv_gradients *, int);
static int has_avx2(void) {
    __builtin_cpu_init(); /* not every compiler's runtime has asked the processor when it is loaded */
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}
static int has_avx512(void) { return has_avx2() && __builtin_cpu_supports("avx512f"); }
#elif defined(__aarch64__)
int dyv_convolve_neon(const dyv_plan *, const dyv_tensors *, int);
int dyv_perceive_neon(const dyv_perceptron *, const float *, float *, int);
int dyv_fuse_neon(const dyv_low_rank *, int);
int dyv_differentiate_neon(const dyv_problem *, const dyv_gradients *, int);
#endif
static int always(void) { return 1; }

static const struct {
    const char *name;
    int64_t lanes;
    int (*present)(void);
    dyv_convolve_function convolve;
    dyv_perceive_function perceive;
    dyv_fuse_function fuse;
    dyv_differentiate_function differentiate;
} sets[] = {
#if defined(__x86_64__)
    {"avx512", 16, has_avx512, dyv_convolve_avx512, dyv_perceive_avx512, dyv_fuse_avx512,
     dyv_differentiate_avx512},
    {"avx2", 8, has_avx2, dyv_convolve_avx2, dyv_perceive_avx2, dyv_fuse_avx2,
     dyv_differentiate_avx2},
#elif defined(__aarch64__)
    {"neon", 4, always, dyv_convolve_neon, dyv_perceive_neon, dyv_fuse_neon,
     dyv_differentiate_neon},
#endif
    {"generic", 4, always, dyv_convolve_generic, dyv_perceive_generic, dyv_fuse_generic,
     dyv_differentiate_generic},
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
    const dyv_tensors tensors = {input, kernels, coefficients, factors, bias, output};
    return sets[index].convolve(plan, &tensors, (int)threads);
}

int64_t dyv_perceive(
    int64_t index, int64_t batch, int64_t channels, int64_t pixels, int64_t hidden, int64_t outputs, const float *input,
    const float *first, const float *first_bias, const float *second, const float *second_bias, float *output,
    int64_t threads
) {
    const dyv_perceptron perceptron = {
        batch, channels, pixels, hidden, outputs, first, first_bias, second, second_bias
    };
    return sets[index].perceive(&perceptron, input, output, (int)threads);
}

int64_t dyv_fuse(
    int64_t index, int64_t batch, int64_t channels, int64_t height, int64_t width, int64_t pool, int64_t width_of_branch,
    int64_t outputs, int64_t rank, const float *input, const float *squeeze, const float *gate, const float *predict,
    const float *predict_bias, const float *expand, const float *expand_bias, const float *reduce,
    const float *reduce_bias, const float *weight, const float *bias, float *scale, float *up, float *shift, float *kernel,
    int64_t threads
) {
    const dyv_low_rank low_rank = {
        batch, channels, height, width, pool, width_of_branch, outputs, rank, input, squeeze, gate, predict, predict_bias,
        expand, expand_bias, reduce, reduce_bias, weight, bias, scale, up, shift, kernel
    };
    return sets[index].fuse(&low_rank, (int)threads);
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

/* What Python says about a convolution, and what is worked out from it once per signature. */
#ifndef DYV_PROBLEM_H
#define DYV_PROBLEM_H

#include <stddef.h>
#include <stdint.h>

/* Raised whenever a structure or a function that Python calls changes: a binary of another number is not used. */
#define DYV_ABI 4

/* Numbers of a tile's row: one block of input channels, whose kernels are mixed and applied in one go. */
#define DYV_BLOCK 640

enum { DYV_NO_BIAS, DYV_BIAS_OF_CHANNELS, DYV_BIAS_OF_SAMPLES, DYV_BIAS_OF_KERNELS };
enum { DYV_NO_ACTIVATION, DYV_RELU, DYV_RELU6 };

/* _signature.py has the same fields in the same order. */
typedef struct {
    int64_t batch, in_channels, out_channels, groups;
    int64_t kernels;     /* K that are mixed; 0: one is given per sample */
    int64_t kernel_h, kernel_w, in_h, in_w, out_h, out_w;
    int64_t stride_h, stride_w, top, left, dilation_h, dilation_w;
    int64_t per_channel; /* coefficients are [B, K, C_out], not [B, K] */
    int64_t by_channel;  /* factors are per input channel and tap, not per tap */
    int64_t bias;        /* one of DYV_*BIAS* */
    int64_t activation;
    int64_t accumulate;  /* whether the output is added to what is there; of 1x1 kernels, see dyv_plan_for */
} dyv_problem;

typedef struct {
    const float *input;        /* [B, C_in, H, W] */
    const float *kernels;      /* [K or B, C_out, C_in/groups, kH, kW] */
    const float *coefficients; /* NULL if the kernels are given */
    const float *factors;      /* of weights, [B, kH, kW] or [B, C_in/groups, kH, kW], or NULL */
    const float *bias;         /* [C_out], [B, C_out] or [K, C_out], or NULL */
    float *output;             /* [B, C_out, H', W'] */
    /* A low-rank part of the kernels, which acts at one tap, or NULL; of one group, with kernels that are mixed. */
    const float *up, *reduce;  /* [B, C_out, rank], [rank, C_in] */
    int64_t rank, centre;
} dyv_tensors;

/*
 * A map is read as planes of floats, in which what a tap sees of consecutive output pixels of a row is consecutive:
 * the input itself for 1x1 kernels, else a padded copy in which each of the stride's phases is a plane of its own.
 * Zeros at the end of a row are those at the start of the next one. Output pixels are computed in vectors of
 * consecutive floats of a plane, gaps between rows included; in narrow maps, where gaps would be many, each column of
 * the kernel has a plane of its own that is as wide as the output ("gapless").
 */
typedef struct {
    dyv_problem problem;
    int64_t lanes;                    /* of a vector */
    int64_t rows, depth, taps, inner; /* C_out/groups, C_in/groups, kH*kW, depth*taps */
    int64_t pixels;                   /* H'*W' */
    int64_t direct;                   /* whether the input itself is read */
    int64_t gapless;                  /* whether consecutive pixels are consecutive floats, over the ends of rows too */
    int64_t strip, strips;            /* output rows that are computed at a time, if channels are computed alone */
    int64_t plane;                    /* floats of one channel, all phases */
    int64_t phases, phase_h, pitch;   /* pitch: floats from one row of a plane to the next */
    int64_t reach;                    /* columns of a plane beyond the output's */
    int32_t *phase_y, *phase_x;       /* row and column of the padded input where a phase begins */
    int32_t *phase_first, *phase_end; /* columns of a phase that lie in the map */
    int32_t *tap_offset;              /* of a tap in a channel's planes */
    int64_t vectors;
    int64_t rest; /* pixels beyond the last vector, too few for another: each is a sum along the weights ("gapless") */
} dyv_plan;

/*
 * Work out a plan for vectors of so many lanes; NULL if there is no memory, a map is too large for 32 bits, or if an
 * output that is to be accumulated is not computed where it is.
 */
dyv_plan *dyv_plan_for(const dyv_problem *problem, int64_t lanes);
void dyv_free(dyv_plan *plan);

/* Work of one thread in a team of `team`. */
typedef void (*dyv_work)(void *argument, int index, int team);

/* Run on up to `threads` threads of the runtime that torch uses; on the calling one alone where there is none. */
void dyv_run(dyv_work work, void *argument, int threads);
/* Wait for the whole team; inside dyv_run only. */
void dyv_wait(int team);

/* Memory of the calling thread, used again by its next call for the same purpose; NULL if there is none. */
enum { DYV_PACKED, DYV_TILE, DYV_SUMS, DYV_PARTS, DYV_GATES, DYV_PURPOSES };
float *dyv_memory(int purpose, size_t floats);
/* Give back what the calling thread holds beyond 64 MiB for each of the first purposes: such maps are rare. */
void dyv_trim(int purposes);

/* Many floats are going to be written for the first time: in pages as large as the system has, if it is asked. */
void dyv_expect(float *at, size_t floats);

/* Linear layers on the means of channels; weights are [rows, columns], a bias may be NULL. */
typedef struct {
    int64_t batch, channels, pixels, hidden, outputs; /* hidden: 0 for one layer */
    const float *first, *first_bias, *second, *second_bias;
    int64_t sigmoid; /* whether it is applied to the output */
} dyv_perceptron;

/* A branch and the convolution that it steers; the branch's sizes are the convolution's. */
typedef struct {
    dyv_perceptron branch;
    int64_t channel, filter, tap, kernel; /* numbers that it predicts, in this order: gates of each kind, or none */
    int64_t softmax;                      /* of the kernels' numbers; else they are gates, too */
} dyv_layer;

static inline int64_t dyv_predicted(const dyv_layer *layer) {
    return layer->channel + layer->filter + layer->tap + layer->kernel;
}

/* Predicts a scale and Phi of each sample, and works out what they make of a layer's weights. */
typedef struct {
    int64_t batch, channels, height, width, pool; /* the map is pooled to pool x pool parts */
    int64_t width_of_branch, outputs, rank;       /* S, O, L */
    const float *input;                           /* [B, C, H, W] */
    const float *squeeze, *gate;                  /* [S, C pool pool], [S, S] */
    const float *predict, *predict_bias;          /* [O + L L, S], [O + L L] */
    const float *expand, *expand_bias;            /* P [O, L], [O] or NULL */
    const float *reduce, *reduce_bias;            /* Q [L, C], [L] */
    const float *bias;                            /* [O] or NULL */
    float *scale, *up, *shift;                    /* [B, O], P Phi [B, O, L], [B, O] */
} dyv_low_rank;

/* Convolutions with W0, and with Q and then P Phi; the last two are NULL if their product is part of the kernels. */
typedef struct {
    const dyv_plan *whole, *reduce, *expand;
    int64_t centre; /* the tap at which the part acts */
} dyv_low_rank_plans;

/* What a backward pass reads and writes; a gradient that is not wanted is NULL. Bias and activation are none of it. */
typedef struct {
    const float *grad;         /* [B, C_out, H', W'] */
    const float *input, *kernels, *coefficients, *factors; /* as dyv_tensors has them */
    float *grad_input, *grad_kernels, *grad_coefficients, *grad_factors;
} dyv_gradients;

/* One instruction set: convolve.h, perceptron.h, layer.h, lowrank.h and gradient.h compiled for it. */
typedef int (*dyv_convolve_function)(const dyv_plan *plan, const dyv_tensors *tensors, int threads);
typedef int (*dyv_perceive_function)(const dyv_perceptron *perceptron, const float *input, float *output, int threads);
typedef int (*dyv_layer_function)(
    const dyv_layer *layer, const dyv_plan *plan, const dyv_tensors *tensors, int threads
);
typedef int (*dyv_fuse_function)(const dyv_low_rank *low_rank, int threads);
typedef int (*dyv_low_rank_function)(
    const dyv_low_rank *low_rank, const dyv_low_rank_plans *plans, const dyv_tensors *tensors, int threads
);
typedef int (*dyv_differentiate_function)(const dyv_problem *problem, const dyv_gradients *gradients, int threads);

#endif

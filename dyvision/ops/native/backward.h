/* What the parts of a backward pass share. */

/* Samples whose kernels are mixed together: the bank is read once for them. */
#define MIXED 4

INLINE float add_lanes(vec value) {
    float lanes[DYV_LANES];
    store(lanes, value);
    four sum = *(const four *)lanes;
#if DYV_LANES > 4
    for (int i = 4; i < DYV_LANES; i += 4) sum += *(const four *)(lanes + i);
#endif
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

/* Floats from one row to the next that is read beside it: not all of them in the same few places of a cache. */
#define APART(numbers) ((numbers) + DYV_LANES)

struct backward {
    const dyv_problem *p;
    const dyv_gradients *t;
    int64_t rows, depth, taps, inner, pixels, kernels; /* C_out/groups, C_in/groups, kH*kW, depth*taps, H'*W', K or 1 */
    int64_t channels, blocks, tasks;   /* of a task, tasks of a group, and all */
    int64_t wide, lines;               /* floats of a tile's row, and of a map of the output */
    int64_t samples, height, strip;    /* samples, and output channels, at a time; those of one gradient of weights */
    int64_t each;                      /* coefficients of a kernel that a task sees */
    int plain;                         /* 1x1, and every pixel is seen: nothing is unfolded */
    int by_pixel;                      /* the unfolded input's gradient has a row for each of few pixels */
    const float *grad;                 /* [B, C_out, lines] */
    float *packed, *parts, *factor_parts;
    int64_t next[4];
    int failed;
};

/* A thread's memory. */
struct workplace {
    float *bank, *grad_bank;          /* [K, height, wide] */
    float *mixed, *grad_mixed;        /* [MIXED, height, wide], [samples, strip, wide] */
    float *factors, *grad_factors;    /* [samples, wide] */
    float *dots;                      /* [samples, K, lanes], of the gradient of a mixture with the kernels */
    float *columns, *unfolded, *grad_unfolded; /* [samples, lines, wide], [wide, lines], [samples, wide, lines] */
};

/* Coefficients of an output channel: of a sample and its kernel k at from[k * kernel + sample * of_sample]. */
struct coefficients {
    const float *from;
    int64_t kernel, sample;
};

static struct coefficients coefficients_of(const struct backward *call, int64_t sample, int64_t channel) {
    static const float one = 1.0f;
    const dyv_problem *p = call->p;
    const int64_t each = p->per_channel ? p->out_channels : 1;
    if (!p->kernels) return (struct coefficients){&one, 0, 0};
    return (struct coefficients){
        call->t->coefficients + sample * p->kernels * each + (p->per_channel ? channel : 0), each, p->kernels * each
    };
}

/* A whole layer: its branch predicts numbers, which mix the kernels of the convolution and are gates of their weights. */

/* Where the numbers of all samples are, and what becomes of them. */
struct gating {
    const dyv_layer *layer;
    float *predicted;    /* [B, N] */
    float *coefficients; /* [B, K], or [B, K, C_out] */
    float *factors;      /* of weights, [B, kH kW] or [B, C_in/groups kH kW]; NULL without */
};

/* Of one sample: predicted numbers become gates between 0 and 1, and weights of the kernels. */
static void finish_branch(const dyv_layer *layer, float *predicted) {
    const int64_t gates = layer->channel + layer->filter + layer->tap;
    apply_sigmoid(predicted, gates);
    if (layer->softmax)
        apply_softmax(predicted + gates, layer->kernel);
    else
        apply_sigmoid(predicted + gates, layer->kernel);
}

/* Of one sample: what multiplies whole kernels per output channel, and what multiplies their weights. */
static void expand_gates(const struct gating *gating, const dyv_plan *plan, int64_t sample) {
    const dyv_layer *layer = gating->layer;
    const dyv_problem *p = &plan->problem;
    const float *channel = gating->predicted + sample * dyv_predicted(layer), *filter = channel + layer->channel;
    const float *tap = filter + layer->filter, *kernel = tap + layer->tap;
    float *mix = gating->coefficients + sample * p->kernels * (p->per_channel ? p->out_channels : 1);
    for (int64_t k = 0; k < p->kernels; k++) {
        const float weight = layer->kernel ? kernel[k] : 1.0f;
        if (!p->per_channel) {
            mix[k] = weight;
            continue;
        }
        float *to = mix + k * p->out_channels;
        for (int64_t o = 0; o < p->out_channels; o++) to[o] = layer->filter ? weight * filter[o] : weight;
        if (p->by_channel || !layer->channel) continue;
        for (int64_t o = 0; o < p->out_channels; o++) to[o] *= channel[o / plan->rows]; /* of its one input channel */
    }
    if (!gating->factors) return;
    float *to = gating->factors + sample * (p->by_channel ? plan->inner : plan->taps);
    for (int64_t c = 0; c < (p->by_channel ? plan->depth : 1); c++)
        for (int64_t t = 0; t < plan->taps; t++)
            *to++ = (p->by_channel ? channel[c] : 1.0f) * (layer->tap ? tap[t] : 1.0f);
}

/* Returns 0, or 1 if there was no memory. */
int DYV_LAYER(const dyv_layer *layer, const dyv_plan *plan, const dyv_tensors *given, int threads) {
    const dyv_problem *p = &plan->problem;
    const int64_t numbers = dyv_predicted(layer);
    const int64_t mixed = p->kernels * (p->per_channel ? p->out_channels : 1);
    const int64_t factors = p->by_channel ? plan->inner : layer->tap;
    float *memory = dyv_memory(DYV_GATES, (size_t)(p->batch * (numbers + mixed + factors)));
    if (!memory) return 1;
    const struct gating gating = {
        layer, memory, memory + p->batch * numbers, factors ? memory + p->batch * (numbers + mixed) : NULL,
    };
    dyv_perceptron branch = layer->branch;
    branch.batch = p->batch, branch.channels = p->in_channels, branch.pixels = p->in_h * p->in_w;
    branch.outputs = numbers;
    if (DYV_PERCEIVE(&branch, given->input, gating.predicted, threads)) return 1;
    for (int64_t sample = 0; sample < p->batch; sample++) {
        finish_branch(layer, gating.predicted + sample * numbers);
        expand_gates(&gating, plan, sample);
    }
    dyv_tensors tensors = *given;
    tensors.coefficients = gating.coefficients, tensors.factors = gating.factors;
    const int failed = DYV_CONVOLVE(plan, &tensors, threads);
    dyv_trim(DYV_PURPOSES);
    return failed;
}

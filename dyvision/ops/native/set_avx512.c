/* x86-64 with AVX-512: 32 registers of 16 floats. */
#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx2,fma")
#endif
#define DYV_LANES 16
#define DYV_MOST_ROWS 6
#define DYV_MOST_VECTORS 4
#define DYV_CONVOLVE dyv_convolve_avx512
#define DYV_PERCEIVE dyv_perceive_avx512
#define DYV_LAYER dyv_layer_avx512
#define DYV_FUSE dyv_fuse_avx512
#define DYV_LOW_RANK dyv_low_rank_avx512
#define DYV_DIFFERENTIATE dyv_differentiate_avx512
#include "vector.h"
#include "product.h"
#include "rows.h"
#include "sums.h"
#include "planes.h"
#include "mixing.h"
#include "depthwise.h"
#include "convolve.h"
#include "exponential.h"
#include "perceptron.h"
#include "layer.h"
#include "lowrank.h"
#include "outer.h"
#include "slide_back.h"
#include "backward.h"
#include "unfold.h"
#include "spread.h"
#include "gradient.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif

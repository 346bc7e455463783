/* ARM64, which always has NEON: 32 registers of 4 floats. */
#if defined(__aarch64__)
#define DYV_LANES 4
#define DYV_MOST_ROWS 6
#define DYV_MOST_VECTORS 4
#define DYV_CONVOLVE dyv_convolve_neon
#define DYV_PERCEIVE dyv_perceive_neon
#define DYV_LAYER dyv_layer_neon
#define DYV_FUSE dyv_fuse_neon
#define DYV_LOW_RANK dyv_low_rank_neon
#define DYV_DIFFERENTIATE dyv_differentiate_neon
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
#endif

/* Any processor: what the compiler makes of vectors of 4 floats, 16 registers of which are common. */
#define DYV_LANES 4
#define DYV_MOST_ROWS 6
#define DYV_MOST_VECTORS 2
#define DYV_CONVOLVE dyv_convolve_generic
#define DYV_PERCEIVE dyv_perceive_generic
#define DYV_LAYER dyv_layer_generic
#define DYV_FUSE dyv_fuse_generic
#define DYV_LOW_RANK dyv_low_rank_generic
#define DYV_DIFFERENTIATE dyv_differentiate_generic
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

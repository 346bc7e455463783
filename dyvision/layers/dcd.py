"""DCD: a static kernel, scaled per output channel, plus a dynamic low-rank fusion of channels.

Li et al., "Revisiting Dynamic Convolution via Matrix Decomposition", ICLR 2021, arXiv 2103.08756, Eq. 4 and 9:
``W(x) = Lambda(x) W0 + P Phi(x) Q^T``. Official: ``liyunsheng13/dcd``, ``models/imagenet/mobilenetv2_dcd.py``
(``DYModule``: 1x1) and ``resnet_dcd.py`` (``conv_basic_dy``, ``conv_dy``). As in the code, and unlike the formula, two
BatchNorms and an identity stand in the residual: ``u = BN1(Q x)``, ``u' = BN2(Phi u) + u``,
``y = Lambda * (W0 * x) + P u'``. The paper's sparse form (not in the official code) makes the residual block-diagonal:
B blocks ``P_b Phi_b Q_b^T``, each between its own part of the input and of the output channels.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import Unpack

from dyvision.layers._base import DynamicConv2d, check_positive
from dyvision.layers._initialise import InitialisedConv2d, Initializer, by_outputs, reset_children
from dyvision.layers._registry import register_layer
from dyvision.layers._weight import StaticKernel, dense_weight
from dyvision.layers.arguments import Conv2dArguments, DoesNotFitError, factory_kwargs, largest_divisor
from dyvision.layers.dcd_branch import FORMS, SMALL, SQUEEZE, DCDBranch, DCDCoefficients, dimensions
from dyvision.layers.dcd_residual import fuse_channels, train_pointwise
from dyvision.layers.norm import BATCH_NORMS, GuardedBatchNorm2d, absorb, affine, is_foldable
from dyvision.ops import dynamic_conv2d
from dyvision.ops.activation import activated
from dyvision.ops.autocast import without_autocast
from dyvision.ops.geometry import Size
from dyvision.ops.low_rank import low_rank_conv2d
from dyvision.ops.modes import has_open_size, is_exporting


@register_layer("dcd")
class DCDConv2d(DynamicConv2d):
    """Convolution with ``W(x) = Lambda(x) W0 + P Phi(x) Q^T``; the residual acts at the kernel's centre tap.

    With ``groups > 1`` W0 is grouped and the residual stays dense: it fuses channels across groups. For even kernels
    the centre is the tap at ``(k - 1) // 2``. The bias is scaled by Lambda, as in the official classifier (the official
    convolutions have none).

    Args:
        form: ``"pointwise"``, ``"basic"`` or ``"bottleneck"`` (see :func:`dimensions`); by default ``"pointwise"`` for
            1x1 kernels and ``"basic"`` for others.
        rank: Overrides L, the sum over the blocks.
        squeeze: Reduction of the branch.
        pool_size: Overrides p.
        blocks: Blocks of the residual; they divide both channels and L. More blocks make it sparser.
        initializer: Start of all weights in place of the official one; a function that sets a tensor.

    Shape:
        As ``nn.Conv2d``; ``coefficients`` are :class:`DCDCoefficients`.

    Example:
        >>> DCDConv2d(16, 32, 3, padding=1)(torch.randn(2, 16, 9, 9)).shape
        torch.Size([2, 32, 9, 9])
    """

    applies_activation = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        *args: Any,
        form: str | None = None,
        rank: int | None = None,
        squeeze: int = SQUEEZE,
        pool_size: int | None = None,
        blocks: int = 1,
        initializer: Initializer | None = None,
        **kwargs: Unpack[Conv2dArguments],
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, *args, **kwargs)
        form = form or ("pointwise" if self.kernel_size == (1, 1) else "basic")
        if form not in FORMS:
            raise ValueError(f"form must be one of {', '.join(FORMS)}, got {form!r}")
        check_positive("squeeze", squeeze)
        for name, value in (("rank", rank), ("pool_size", pool_size)):
            if value is not None:
                check_positive(name, value)
        check_positive("blocks", blocks)
        divided = {"in_channels": self.in_channels, "out_channels": self.out_channels, "rank": rank or blocks}
        for name, value in divided.items():
            if value % blocks:
                message = f"blocks must divide {name}, got blocks={blocks}, {name}={value}"
                raise DoesNotFitError(message, "blocks", largest_divisor(blocks, *divided.values()))
        self.form, self.blocks = form, blocks
        pool, self.rank, width = dimensions(self.in_channels, self.out_channels, form, squeeze, rank, blocks)
        dd = factory_kwargs(args, kwargs)
        self.weight = nn.Parameter(torch.empty(self.kernel_shape, **dd))
        self.bias = nn.Parameter(torch.empty(self.out_channels, **dd)) if self.has_bias else None
        #: of the kernels; :func:`dcd_classifier` sets another one
        self.initializer = initializer or by_outputs
        start: dict[str, Any] = {"initializer": self.initializer, **dd}
        branch_start = {"initializer": initializer or (SMALL if form == "pointwise" else None), **dd}
        sizes = (self.in_channels, self.out_channels, self.rank, width, pool_size or pool, blocks)
        self.branch = DCDBranch(*sizes, **branch_start)
        self.conv_q = InitialisedConv2d(self.in_channels, self.rank, 1, self.stride, groups=blocks, bias=False, **start)
        self.bn1 = GuardedBatchNorm2d(self.rank, **dd)
        self.bn2 = GuardedBatchNorm2d(self.rank, **dd)
        self.conv_p = InitialisedConv2d(self.rank, self.out_channels, 1, groups=blocks, bias=False, **start)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Convolutions N(0, sqrt(2 / (k k O))), the branch as in :meth:`DCDBranch.reset_parameters`."""
        reset_children(self)
        self.initializer(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def coefficients(self, x: Tensor) -> DCDCoefficients:
        """Return Lambda ``[B, C_out]`` in [0, 2] and Phi ``[B, blocks, L/blocks, L/blocks]``."""
        return self.branch(x)

    def forward(self, x: Tensor, coefficients: DCDCoefficients | None = None) -> Tensor:
        """Convolve ``[B, C_in, H, W]``."""
        if coefficients is None and (found := self._at_once(x)) is not None:
            return found
        predicted = self.coefficients(x) if coefficients is None else coefficients
        return activated(self._convolve(x, *predicted), self.fused_activation)

    def _convolve(self, x: Tensor, scale: Tensor, fusion: Tensor) -> Tensor:
        if self.branch.fused_fc is not None or (self.blocks == 1 and self._norms_fold):
            return self._evaluate(x, scale, fusion[:, 0])
        norms = (self.bn1, self.bn2)
        if self._pointwise and self.stride == (1, 1) and self.blocks == 1:
            parts = (self.weight, self.bias, self.conv_q, self.conv_p, norms)
            if (found := train_pointwise(x, scale, fusion[:, 0], *parts)) is not None:
                return found
        static, low = self._static_and_low(x, self.bias, self.conv_q.weight)
        residual = self.conv_p(fuse_channels(low, fusion, norms))
        return torch.addcmul(residual, static, scale.to(static.dtype)[:, :, None, None])

    def _at_once(self, x: Tensor) -> Tensor | None:
        """Predict, fold and convolve where there is code for it; None elsewhere, and before :meth:`fuse_branch`."""
        weights = self.branch.low_rank_weights(self.conv_q, self.conv_p, self.bias)
        if weights is None or self.padding_mode != "zeros":
            return None
        _, geometry = self.convolution_arguments(x)
        pool, activation = self.branch.pool_size, self.fused_activation
        return low_rank_conv2d(x, self.weight, weights, pool, self.centred, geometry, activation)

    def _evaluate(self, x: Tensor, scale: Tensor, fusion: Tensor) -> Tensor:
        """Convolve with the BatchNorms' running statistics, by which the residual is one linear map per sample.

        That map ``P A diag(a1) Q`` with ``A = diag(a2) Phi + 1`` becomes part of the kernel, or is applied to the
        feature maps, from whichever side needs fewer multiply-adds.
        """
        inputs, outputs = self.in_channels, self.out_channels
        # an exporter of free sizes would keep the answers for the one that it sees
        pixels = math.inf if has_open_size(x) else x.shape[2] * x.shape[3] // (self.stride[0] * self.stride[1])
        folds = self._pointwise and outputs * inputs < pixels * (inputs + outputs)
        with without_autocast(x.device):
            expand = self.conv_p.weight.flatten(1).to(scale.dtype)
            down, mixed, centre = self._folded_norms(fusion)
            shift = F.linear(centre, expand)
            if self.conv_p.bias is not None:
                shift = shift + self.conv_p.bias
            if self.bias is not None:
                shift = shift + scale * self.bias
            up = expand @ mixed if folds or outputs < pixels else None
            if folds and up is not None:
                scaled = scale[:, :, None] * self.weight.flatten(1).to(scale.dtype)
                kernel = torch.addmm(scaled.flatten(0, 1), up.flatten(0, 1), down).view_as(scaled)
        if folds:
            return dynamic_conv2d(x, kernel.to(x.dtype)[..., None, None], shift, stride=self.stride)
        static, low = self._static_and_low(x, None, down.to(x.dtype)[..., None, None])
        low, dtype = low.flatten(2), static.dtype
        base = torch.addcmul(shift.to(dtype)[:, :, None], scale.to(dtype)[:, :, None], static.flatten(2))
        if up is None:
            low, up = torch.bmm(mixed.to(dtype), low), expand.expand(x.shape[0], -1, -1)
        return torch.baddbmm(base, up.to(dtype), low).view(static.shape)

    def _folded_norms(self, fusion: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``diag(a1) Q``, A, and ``A c1 + c2``, to which P maps what the norms add."""
        down = self.conv_q.weight.flatten(1).to(fusion.dtype)
        if self.branch.fused_fc is not None:
            assert self.conv_q.bias is not None
            return down, fusion, fusion @ self.conv_q.bias.to(fusion.dtype)
        (a1, c1), (a2, c2) = (affine(bn, fusion.dtype) for bn in (self.bn1, self.bn2))
        mixed = a2[:, None] * fusion + torch.eye(self.rank, dtype=fusion.dtype, device=fusion.device)
        return a1[:, None] * down, mixed, mixed @ c1 + c2

    def static_kernel(self, coefficients: DCDCoefficients) -> StaticKernel:
        """See the base class; of a grouped W0 the kernel is dense, as the residual is."""
        scale, fusion = coefficients.scale[0], coefficients.fusion[0]
        expand, reduce = (
            dense_weight(weight.flatten(1).to(scale.dtype), self.blocks)
            for weight in (self.conv_p.weight, self.conv_q.weight)
        )
        mixed: Tensor = torch.block_diag(*fusion)
        if self.branch.fused_fc is not None:  # what the norms do is in Q, its bias and Phi
            assert self.conv_q.bias is not None
            centre = mixed @ self.conv_q.bias.to(scale.dtype)
        else:
            (a1, c1), (a2, c2) = (affine(bn, scale.dtype) for bn in (self.bn1, self.bn2))
            mixed = a2[:, None] * mixed + torch.eye(self.rank, dtype=scale.dtype, device=scale.device)
            reduce, centre = a1[:, None] * reduce, mixed @ c1 + c2
        weight = dense_weight(self.weight.to(scale.dtype), self.groups) * scale[:, None, None, None]
        weight[:, :, (self.kernel_size[0] - 1) // 2, (self.kernel_size[1] - 1) // 2] += expand @ mixed @ reduce
        biases = [expand @ centre]
        biases += [] if self.conv_p.bias is None else [self.conv_p.bias.to(scale.dtype)]
        biases += [] if self.bias is None else [scale * self.bias.to(scale.dtype)]
        return StaticKernel(weight, torch.stack(biases).sum(0))

    def static_obstacle(self) -> str:
        """See the base class."""
        folds = self.branch.fused_fc is not None or all(type(norm) in BATCH_NORMS for norm in (self.bn1, self.bn2))
        return "" if folds else "the norms of its residual are not factors and shifts"

    def load_static(self, weight: Tensor, bias: Tensor | None) -> None:
        """Start with P = 0 (its gradient is not) and Fs = 0, so that Lambda is one."""
        self.weight.copy_(weight)
        if self.bias is not None and bias is not None:
            self.bias.copy_(bias)
        nn.init.zeros_(self.conv_p.weight)
        nn.init.zeros_(self.branch.fc_scale.weight)

    def fold_affine(self, factor: Tensor, shift: Tensor) -> bool:
        """Scale W0, its bias and P; the shift becomes P's bias, which Lambda does not scale."""
        self.weight.mul_(factor[:, None, None, None])
        if self.bias is not None:
            self.bias.mul_(factor)
        absorb(self.conv_p, factor, shift)
        return True

    def fuse_branch(self) -> None:
        """Fold the first norm into Q, the second into the branch and into the bias of P.

        Not with several blocks, nor with norms that are no factor and shift.
        """
        if self.blocks > 1 or not self._norms_fold:
            return
        dtype = self.conv_p.weight.dtype
        (a1, c1), (a2, c2) = (affine(bn, dtype) for bn in (self.bn1, self.bn2))
        absorb(self.conv_q, a1, c1)
        self.conv_p.bias = nn.Parameter(F.linear(c2, self.conv_p.weight.flatten(1), self.conv_p.bias))
        self.branch.fuse(a2)
        del self.bn1, self.bn2

    def extra_repr(self) -> str:
        """Add the rank, and the blocks if there are several."""
        blocks = f", blocks={self.blocks}" if self.blocks > 1 else ""
        return f"{super().extra_repr()}, rank={self.rank}{blocks}"

    def _static(self, x: Tensor, bias: Tensor | None) -> Tensor:
        x, geometry = self.convolution_arguments(x)
        if geometry["padding"] == "same":
            (top, bottom), (left, right) = self.pads(x)
            x, geometry["padding"] = F.pad(x, (left, right, top, bottom)), 0
        return F.conv2d(x, self.weight, bias, **geometry)

    @property
    def _norms_fold(self) -> bool:
        return is_foldable(self.bn1) and is_foldable(self.bn2)

    @property
    def _pointwise(self) -> bool:
        """Whether W0 sees what Q sees: single pixels, all channels. "same" adds nothing to a 1x1 kernel's input."""
        return self.kernel_size == (1, 1) and self.groups == 1 and self.padding in ((0, 0), "same", "valid")

    def _static_and_low(self, x: Tensor, bias: Tensor | None, down: Tensor) -> tuple[Tensor, Tensor]:
        """``W0 * x + bias`` and ``down * x`` at the positions of the centre tap, by one convolution if they can be."""
        if self._pointwise and self.blocks == 1:
            weight = torch.cat([self.weight.to(down.dtype), down])
            shift = None if bias is None else torch.cat([bias, bias.new_zeros(self.rank)])
            static, low = F.conv2d(x, weight, shift, self.stride).split_with_sizes((self.out_channels, self.rank), 1)
            return static, low
        static = self._static(x, bias)
        return static, F.conv2d(self.centred(x), down, None, self.stride, groups=self.blocks)

    def centred(self, x: Tensor) -> Tensor:
        """Crop or pad ``x`` so that a strided 1x1 convolution visits the centre tap of every output position."""
        edges: list[int] = []
        for axis, (before, after) in zip((1, 0), reversed(self.pads(x)), strict=True):  # F.pad starts with the last
            dilation, reach = self.dilation[axis], self.dilation[axis] * (self.kernel_size[axis] - 1) + 1
            first = before - dilation * ((self.kernel_size[axis] - 1) // 2)
            # up to the last position that some input size could have: what a stride skips does no harm, and the edge
            # is the same for all sizes
            edges += [first, 1 + before + after - reach - first]
        # "same" zeros are others at other sizes: an exporter must not ask
        if not (self.padding == "same" and is_exporting()) and not any(edges):
            return x
        mode = self.padding_mode if self.padding_mode != "zeros" and max(edges) > 0 else "constant"
        return F.pad(x, edges, mode="constant" if mode == "zeros" else mode)

"""Which part a convolution plays in a network, found from the structure of any ``nn.Module``.

Policies ("every convolution in blocks but the shortcuts") need to know where a convolution sits. Networks agree on
little but their vocabulary, so the roles are read from three things: the order of registration (stem before the first
block, head after the last), the class names of the field (``InvertedResidual``, ``BasicBlock``, ``SqueezeExcite``...)
and the attribute names (``downsample``, ``shortcut``, ``classifier``).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

from timm.layers import Conv2dSame
from torch import nn

from dyvision.convert._parts import enclosing_part, find_parts
from dyvision.layers import CoefficientBranch, DynamicConv2d, StaticConv2d

Role = Literal["stem", "block", "shortcut", "transition", "head", "part", "attention", "classifier", "predictor"]

# DenseBlock is a whole stage of DenseLayers; the block of DenseNet is the layer.
_BLOCK = re.compile(
    r"(^|(?<!Dense)(?<!Drop)(?<!Stem))Block(V?\d+d?)?$"
    r"|(Bottleneck|Bottle2neck|InvertedResidual|EdgeResidual|DepthwiseSeparableConv|MBConv|MbConv|Residual)$"
    r"|^(ConvBnAct|(Dla|PreAct|SelectiveKernel)Basic|Fire|_?DenseLayer|Inception[A-E]?|UniversalInvertedResidual)$"
    # transformers calls a block a layer
    r"|((Basic|Bottle[nN]eck|PreActResidual)Layer|^RegNet[XY]Layer|^(ConvNext(V2)?|Segformer|PoolFormer)Layer)$"
)
_ATTENTION = re.compile(
    r"(Attn|Attention)(\d?d)?$|Squeeze(And)?Excit\w*$|^(RegNet)?SELayer$|^((Effective)?S[eE](Module|Layer|Block)?|"
    r"(C?[eE]ca|ECA)(Module|Layer|Block)?|(Light)?C[bB][aA][mM](Module)?|GatherExcite|GlobalContext|CoordAtt\w*)$"
)
_ATTENTION_NAMES = frozenset({"se", "eca", "attn", "attention", "se_layer", "se_module", "squeeze_excite", "cbam"})
_SHORTCUT_NAMES = frozenset({"downsample", "shortcut", "skip", "identity", "residual_conv"})
# timm's VGG: the hidden layers of the classifier as convolutions, the first of them 7x7 with a hundred million weights
_CLASSIFIER_NAMES = frozenset({"classifier", "fc", "head_fc", "last_linear", "logits", "pre_logits"})
# The last convolutions of heads: scores, boxes, masks, keypoints. torchvision's names, mmdet's, and those of YOLO.
_PREDICTOR = re.compile(
    r"(^|\.)((\w+_)?(cls_logits|bbox_pred|bbox_reg|bbox_ctrness|mask_fcn_logits|conv_logits|cls_score|mask_pred)"
    r"|(conv|retina|fcos|rpn|gfl|atss|tood)_(cls|reg|centerness|obj)|conv_(centerness|objectness|class|seg)"
    r"|(multi_level_conv_)(cls|reg|obj)(\.\d+)?|aux_classifier\.4|(low|high)_classifier"
    r"|segmentation_head\.0"
    r"|(classification|regression)_head\.module_list\.\d+(\.1)?)$"
)
_STEM_NAMES = frozenset({"stem", "conv_stem", "patch_embed", "embedder", "embeddings"})
# Other subclasses change the kernel before using it (weight standardisation, parametrisations): a mixture of plain
# kernels would not compute what they do.
CONVERTIBLE = (nn.Conv2d, Conv2dSame, StaticConv2d)


@dataclass(frozen=True)
class ConvSite:
    """One convolution of a network.

    Attributes:
        name: Its name in ``model.named_modules()``.
        conv: The module.
        role: ``stem``, ``block``, ``shortcut`` (inside a block, beside its main path), ``transition`` (between blocks),
            ``head`` (after the last block), ``part`` (of what is on top of a backbone: a pyramid, a decoder, a
            detector's heads), ``attention`` (inside squeeze-excite and the like), ``classifier``, or ``predictor`` (the
            last convolution of a detector's or a segmentation head).
        block: Name of the residual block it belongs to, or None.
        block_class: Class name of that block, or the empty string.
        part: Name of the pyramid, decoder or head it belongs to, or None.
        part_kind: What that is.
    """

    name: str
    conv: nn.Conv2d
    role: Role
    block: str | None = None
    block_class: str = ""
    part: str | None = None
    part_kind: str = ""

    @property
    def stage(self) -> str:
        """Name of the module that holds the block, as a rule a stage; empty without a block."""
        return (self.block or "").rpartition(".")[0]

    @property
    def depthwise(self) -> bool:
        """Whether each output channel sees a single input channel."""
        return self.conv.groups > 1 and self.conv.groups == self.conv.in_channels

    @property
    def dense(self) -> bool:
        """Whether each output channel sees all input channels."""
        return self.conv.groups == 1

    @property
    def pointwise(self) -> bool:
        """Whether the kernel is 1x1."""
        return self.conv.kernel_size == (1, 1)


def find_convs(model: nn.Module, dynamic: bool = False) -> list[ConvSite]:
    """List the convolutions of a model that a dynamic layer could replace, in order of registration.

    Args:
        model: Any module. Convolutions inside dynamic layers and their coefficient branches are not listed, nor are
            those whose class is not exactly ``nn.Conv2d``, timm's ``Conv2dSame`` or ``StaticConv2d``.
        dynamic: List the dynamic layers, too, as the convolutions that they stand for.

    Returns:
        The sites; a network without recognisable blocks has one ``stem`` (its first convolution) and otherwise sites
        of role ``block`` with ``block=None``.
    """
    modules = dict(model.named_modules())
    parts = find_parts(modules)
    every_block = _outermost_blocks(model, modules)
    blocks = [name for name in every_block if enclosing_part(name, parts) is None]
    names = [
        name
        for name, module in modules.items()
        if (_is_convertible(module) and not _owned(name, modules))
        or (dynamic and isinstance(module, DynamicConv2d) and not _owned(name.rpartition(".")[0], modules))
    ]
    order = {name: position for position, name in enumerate(modules)}
    if blocks:
        first, last = order[blocks[0]], order[blocks[-1]]
    else:
        main_path = [n for n in names if not _is_attention(n, modules) and enclosing_part(n, parts) is None]
        first, last = (order[main_path[0]] + 1 if main_path else 0), len(order)
    sites = []
    for name in names:
        conv = modules[name]
        if not isinstance(conv, (nn.Conv2d, DynamicConv2d)):  # for the type checker: CONVERTIBLE are all Conv2d
            continue
        block, part = _enclosing(name, every_block), enclosing_part(name, parts)
        if _is_attention(name, modules):
            role: Role = "attention"
        elif _PREDICTOR.search(name) or _is_torchvision_predictor(name, part):
            role = "predictor"
        elif part is not None:
            role = "classifier" if _CLASSIFIER_NAMES & set(name[len(part) + 1 :].split(".")) else "part"
        elif block is not None:
            role = _role_in_block(name, block, modules[block])
        elif order[name] < first:
            role = "stem"
        elif _CLASSIFIER_NAMES & set(name.split(".")):
            role = "classifier"
        elif order[name] > last:
            role = "head"
        else:
            role = "transition" if blocks else "block"
        kind = type(modules[block]).__name__ if block is not None else ""
        sites.append(ConvSite(name, cast(nn.Conv2d, conv), role, block, kind, part, parts.get(part or "", "")))
    return sites


def _is_convertible(module: nn.Module) -> bool:
    return type(module) in CONVERTIBLE and is_plain(module) and not has_own_methods(module)


def is_plain(module: nn.Module) -> bool:
    """Whether a convolution's weight is a parameter, and not computed from others before each call.

    ``torch.nn.utils.weight_norm``, ``spectral_norm`` and ``prune`` leave the class, and compute it in a hook.
    """
    weight = module._parameters.get("weight")
    return isinstance(weight, nn.Parameter) and not nn.parameter.is_lazy(weight)


def has_own_methods(module: nn.Module) -> bool:
    """Whether a method is replaced on the instance, as ``forward`` is by accelerate's hooks."""
    return any(callable(value) and callable(getattr(type(module), name, None)) for name, value in vars(module).items())


def _is_torchvision_predictor(name: str, part: str | None) -> bool:
    """Whether it is the last convolution of torchvision's segmentation heads, which are lists."""
    return part is not None and part.endswith("classifier") and name == f"{part}.4"


def _role_in_block(name: str, block: str, module: nn.Module) -> Role:
    inside = (name[len(block) + 1 :] if block else name).split(".")
    # torchvision's RegNet calls the convolution of the shortcut "proj", others the last one of the main path
    beside = inside[0] == "proj" and type(module).__name__ == "ResBottleneckBlock"
    return "shortcut" if beside or _SHORTCUT_NAMES & set(inside) else "block"


def _outermost_blocks(model: nn.Module, modules: dict[str, nn.Module]) -> list[str]:
    found: list[str] = []
    for name, module in modules.items():
        if not name or not _looks_like_block(module) or _is_attention(name, modules) or _is_stem(name):
            continue
        convs = (child for child in module.modules() if isinstance(child, (nn.Conv2d, DynamicConv2d)))
        if _enclosing(name, found) is None and next(convs, None) is not None:
            found.append(name)
    if not found and _looks_like_block(model):
        return [""]
    return found


def _looks_like_block(module: nn.Module) -> bool:
    return bool(_BLOCK.search(type(module).__name__))


def _is_stem(name: str) -> bool:
    return bool(_STEM_NAMES & set(name.split(".")))


def _is_attention(name: str, modules: dict[str, nn.Module]) -> bool:
    for prefix in _prefixes(name):
        if prefix.rsplit(".", 1)[-1] in _ATTENTION_NAMES or _ATTENTION.search(type(modules[prefix]).__name__):
            return True
    return False


def _owned(name: str, modules: dict[str, nn.Module]) -> bool:
    return any(isinstance(modules[prefix], (DynamicConv2d, CoefficientBranch)) for prefix in _prefixes(name))


def _enclosing(name: str, blocks: Sequence[str]) -> str | None:
    known = set(blocks)
    if known == {""}:
        return ""
    return next((prefix for prefix in _prefixes(name) if prefix in known), None)


def _prefixes(name: str) -> list[str]:
    """``a.b.c`` gives ``["a", "a.b", "a.b.c"]``."""
    segments = name.split(".")
    return [".".join(segments[: length + 1]) for length in range(len(segments))]

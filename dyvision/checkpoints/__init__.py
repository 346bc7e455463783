"""Weights and layers of the official implementations, as ours.

:func:`load_official` loads a whole network. What to create for which source (``num_classes`` as in the file):

* ``"dcd"``: ``create_model("mobilenetv2_100", layer="dcd", dynamic_classifier=True)`` (``squeeze=8`` for the default
  of the official code, the released weights have 16, as ours); ``create_model("resnet18", layer="dcd",
  dynamic_classifier=True)``; ``create_model("resnet50", layer="dcd", form="bottleneck", dynamic_classifier=True)``.
* ``"dgc"``: ``create_model("resnet18", layer="dgc", policy="dyconv", pre_activation=True)``, where everything but the
  stem is dynamic; heads, ``squeeze_rate`` and ``gate_factor`` as in the training.
* ``"odconv"``: ``create_model("resnet18", layer="odconv", num_kernels=4)``; ``create_model("mobilenetv2_100",
  layer="odconv", num_kernels=4, policy="dyconv")``, where everything but the stem is dynamic.
* ``"dyconv"``: ``create_model("resnet18", layer="dyconv")``.
* ``"condconv"``: ``create_model("mobilenetv2_100", layer="condconv", dynamic_classifier=True)``.
* ``"timm"``: ``create_model("tf_efficientnet_b0", layer="condconv", num_kernels=4)`` for ``tf_efficientnet_cc_b0_4e``;
  static networks too.
* ``"weightnet"``: ``create_model("weightnet_shufflenetv2_x1_0")``.
* ``"kernelwarehouse"``: the names of ``dyvision.backbones.published.kernelwarehouse.VARIANTS``.

:func:`create_official` reads all this from the names and shapes of the weights, at any width, and loads them;
:func:`build_network` takes an official class and its arguments. The modules of ``dyvision.checkpoints.methods``
translate single layers, one method each.
"""

from dyvision.checkpoints.create import create_official
from dyvision.checkpoints.interface import get_method, list_methods
from dyvision.checkpoints.load import SOURCES, OfficialReport, load_official, translate_state
from dyvision.checkpoints.networks import build_network, is_network

__all__ = (
    "SOURCES",
    "OfficialReport",
    "build_network",
    "create_official",
    "get_method",
    "is_network",
    "list_methods",
    "load_official",
    "translate_state",
)

"""Where the levels of a network end, for what freezes all before one."""

from __future__ import annotations

from torch import nn

from dyvision.backbones import Backbone


def modules_up_to(backbone: Backbone, level: int) -> dict[str, nn.Module]:
    """The modules inside a network up to the end of a level, by name, in the order in which the network has them.

    Args:
        backbone: The network.
        level: Its number in ``feature_info``.
    """
    last = str(backbone.feature_info.info[level]["module"])
    modules = {name: module for name, module in backbone.body.named_modules() if name}
    names = list(modules)
    end = max((i for i, name in enumerate(names, 1) if f"{name}.".startswith(f"{last}.")), default=0)
    return {name: modules[name] for name in names[:end]}

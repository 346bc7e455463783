"""Class paths of earlier versions: where what they name lives now.

Configs and checkpoints name heads and losses by the module that defined them. Modules move; what they defined is found
in the package that they became part of.
"""

from __future__ import annotations

import re

#: modules of earlier versions -> the package that has their classes and functions
_MOVED = {
    r"dyvision\.tasks\.(losses|inference)": "dyvision.tasks.heads.segmentation",
    r"dyvision\.tasks\.heads\.mmseg": "dyvision.tasks.heads.segmentation",
    r"dyvision\.tasks\.heads\.detection_[a-z_]+": "dyvision.tasks.heads.detection",
}


def current_path(class_path: str) -> str:
    """The dotted path of a class or function today.

    Example:
        >>> current_path("dyvision.tasks.losses.OHEMLoss"), current_path("torch.nn.Conv2d")
        ('dyvision.tasks.heads.segmentation.OHEMLoss', 'torch.nn.Conv2d')
    """
    module, dot, name = class_path.rpartition(".")
    package = next((package for moved, package in _MOVED.items() if re.fullmatch(moved, module)), module)
    return f"{package}{dot}{name}"

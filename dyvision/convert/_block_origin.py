"""What a block was before it was rewritten to share a branch, so that it can be that again.

The rewritten block is a ``torch.fx.GraphModule``, which forgets the class of the block and of the containers in it,
and, when it is copied, all that its graph does not mention. The branch, which it does mention, carries the memory.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from dyvision.convert._block_attributes import is_plain

_MEMORY = "block_origin"
#: what every module has, and what ``Module.__init__`` makes anew
_COMMON = frozenset(vars(nn.Module()))
#: what a rewritten block has for itself
_OF_GRAPHS = frozenset(vars(fx.GraphModule(nn.Module(), fx.Graph())))


@dataclass
class ModuleOrigin:
    """One module as it was.

    Attributes:
        module: Where its class is defined.
        qualname: The name of its class there.
        attributes: Its own attributes, without parameters, buffers and children.
        children: Names of its children, in order; None is a child, too.
        spare: Those of them without parameters and buffers.
        transient: Names of its buffers that are not saved.
        empty: Names of its parameters, and of its buffers, that are None.
    """

    module: str
    qualname: str
    attributes: dict[str, Any]
    children: list[str]
    spare: dict[str, nn.Module | None]
    transient: set[str]
    empty: tuple[frozenset[str], frozenset[str]] = (frozenset(), frozenset())


def remember_block(block: nn.Module, branch: nn.Module, layers: Iterable[str]) -> None:
    """Store on the branch what the block and the containers around its layers are."""
    names = {name[:end] for name in layers for end, mark in enumerate(name) if mark == "."}
    memory = {name: _origin(block.get_submodule(name)) for name in ("", *sorted(names))}
    setattr(branch, _MEMORY, memory)


def restore_block(shared: nn.Module, branch_name: str) -> nn.Module | None:
    """The block with its own class, and the children that the rewritten one has now; None if it cannot be.

    Args:
        shared: The rewritten block.
        branch_name: Of the branch in it, which the result does not have.
    """
    memory: dict[str, ModuleOrigin] = getattr(shared.get_submodule(branch_name), _MEMORY, {})
    classes = {name: _find(origin) for name, origin in memory.items()}
    if "" not in memory or None in classes.values():
        return None
    restored: nn.Module = shared
    # the innermost first: each takes its restored children along
    for name in sorted(memory, key=lambda name: -name.count(".") if name else 1):
        kind = classes[name]
        assert kind is not None
        made = _rebuild(kind, memory[name], shared.get_submodule(name))
        if name:
            shared.set_submodule(name, made)
        else:
            restored = made
    return restored


def without_branch(shared: fx.GraphModule, branch_name: str) -> fx.GraphModule:
    """The rewritten block, whose class is not to be had, without its branch; its layers are ordinary ones by now."""
    graph = shared.graph
    for node in list(graph.nodes):
        if node.op == "call_module" and node.target == branch_name:
            for entry in list(node.users):
                for layer in list(entry.users):
                    layer.args = tuple(argument for argument in layer.args if argument is not entry)
                graph.erase_node(entry)
            graph.erase_node(node)
    delattr(shared, branch_name)
    shared.recompile()
    return shared


def _origin(module: nn.Module) -> ModuleOrigin:
    attributes = {name: value for name, value in vars(module).items() if name not in _COMMON}
    children = module._modules  # private: named_children leaves out those that are None
    spare = {name: child for name, child in children.items() if child is None or not child.state_dict()}
    kind, transient = type(module), set(module._non_persistent_buffers_set)
    # private: as for children
    parameters = frozenset(name for name, value in module._parameters.items() if value is None)
    buffers = frozenset(name for name, value in module._buffers.items() if value is None)
    names = kind.__module__, kind.__qualname__
    return ModuleOrigin(*names, attributes, list(children), spare, transient, (parameters, buffers))


def _find(origin: ModuleOrigin) -> type[nn.Module] | None:
    try:
        found: Any = importlib.import_module(origin.module)
        for part in origin.qualname.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError):  # a class of a function, or of a session that is over
        return None
    return found if isinstance(found, type) and issubclass(found, nn.Module) else None


def _belongs(name: str, value: Any, kind: type[nn.Module], origin: ModuleOrigin) -> bool:
    """Whether an attribute is one that the block had, perhaps changed since; also those of its class."""
    own = name in origin.attributes or (not name.startswith("_") and is_plain(value) and hasattr(kind, name))
    return own and name not in _OF_GRAPHS


def _rebuild(kind: type[nn.Module], origin: ModuleOrigin, now: nn.Module) -> nn.Module:
    made = kind.__new__(kind)
    nn.Module.__init__(made)
    vars(made).update(origin.attributes)
    vars(made).update({name: value for name, value in vars(now).items() if _belongs(name, value, kind, origin)})
    for name, parameter in now.named_parameters(recurse=False):
        made.register_parameter(name, parameter)
    for name, buffer in now.named_buffers(recurse=False):
        made.register_buffer(name, buffer, persistent=name not in origin.transient)
    for name in origin.empty[0] - set(made._parameters):
        made.register_parameter(name, None)
    for name in origin.empty[1] - set(made._buffers):
        made.register_buffer(name, None)
    for name in origin.children:
        made.add_module(name, now._modules.get(name, origin.spare.get(name)))
    made.training = now.training
    return made

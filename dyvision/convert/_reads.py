"""Which convolutions a model does not call, or not only: it reads their weight or bias, which a layer may not have."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import fx, nn

from dyvision.convert._atomic import unchanged
from dyvision.convert._sites import ConvSite

#: call their children and do nothing else
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


class _ShallowTracer(fx.Tracer):
    """Keeps every child closed."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True


def readers_of(model: nn.Module, sites: Sequence[ConvSite]) -> dict[str, str]:
    """Names of the convolutions whose parameters a ``forward`` reads, each with the class whose ``forward`` it is.

    Every module around a convolution is traced with ``torch.fx``. One that cannot be traced, because it depends on
    data, reads nothing as far as can be told.
    """
    wanted = {site.name for site in sites}
    found: dict[str, str] = {}
    for name in dict.fromkeys(ancestor for site in sites for ancestor in _ancestors(site.name)):
        module = model.get_submodule(name)
        if type(module) in _CONTAINERS:
            continue
        prefix = f"{name}." if name else ""
        for target in _read(module):
            conv = prefix + target.rpartition(".")[0]
            if conv in wanted:
                found.setdefault(conv, type(module).__name__)
    return found


def _read(module: nn.Module) -> list[str]:
    try:
        with unchanged(module):  # what forward stores on itself
            graph = _ShallowTracer().trace(module)
    # tracing runs foreign code with stand-ins for tensors: it can fail in any way
    except Exception:
        return []
    return [str(node.target) for node in graph.nodes if node.op == "get_attr"]


def _ancestors(name: str) -> Iterator[str]:
    """``a.b.c`` gives ``a.b``, ``a`` and the empty string; the model itself has none."""
    while name:
        name = name.rpartition(".")[0]
        yield name

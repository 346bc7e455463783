"""Keywords of classes that other frameworks build from a config: a wrong one is named, with the closest."""

from __future__ import annotations

from typing import Any

from dyvision.backbones.keywords import arguments_of_layer, keywords_of
from dyvision.layers.arguments import UnknownArgumentError
from dyvision.text import did_you_mean


class NamesKeywords:
    """Base of a class whose keywords are compared with those of its constructor before that is called."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Make an instance.

        Raises:
            UnknownArgumentError: For a keyword that the constructor does not have.
        """
        known = cls.keywords()
        for name in kwargs:
            if name not in known:
                raise UnknownArgumentError(f"{cls.__name__} has no argument {name!r}{_hint(name, kwargs, known)}")
        return super().__new__(cls)

    @classmethod
    def keywords(cls) -> list[str]:
        """What the constructor takes."""
        return keywords_of(cls)


def _hint(name: str, given: dict[str, Any], known: list[str]) -> str:
    layer = given.get("layer", "static")
    if "layer_kwargs" in known and name in arguments_of_layer(layer):
        return f": it is one of the layer {layer!r}; give layer_kwargs={{{name!r}: {given[name]!r}}}"
    return did_you_mean(name, known) or f"; it takes {', '.join(known)}"

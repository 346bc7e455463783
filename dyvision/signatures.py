"""Arguments that are said once, in one place, and seen wherever they are taken.

A layer, a task or a data module declares the arguments of its own and takes those of its base as ``*args`` and
``**kwargs``; a function takes the fields of a dataclass as ``**kwargs``. The command line follows constructors by
itself; for ``help()``, notebooks and ``inspect.signature`` it is done here.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from inspect import Parameter, Signature
from typing import Any, TypeVar, get_type_hints

from typing_extensions import Never

Function = TypeVar("Function", bound=Callable[..., Any])

_BY_POSITION = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
_STARRED = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
#: an argument in the "Args:" section of a docstring, with the lines that go on below it
_ARGUMENT = re.compile(r"^    (?P<name>\w+)(?: \([^)]*\))?:.*(?:\n(?: {5,}.*)?)*", re.MULTILINE)


def constructor_signature(cls: type) -> Signature:
    """What a class is called with: the arguments of its constructor, and of those to which it hands ``**kwargs`` on.

    Own positional arguments that are the base's first ones are followed by the base's next ones where there are
    ``*args``; behind others the base's arguments are given by name. ``**name: Never`` takes nothing.

    Args:
        cls: Any class. One whose constructor has no ``**kwargs`` takes what that constructor takes.
    """
    taken: list[Parameter] | None = None
    for constructor in reversed(list(_constructors(cls))):
        own = list(inspect.signature(constructor).parameters.values())[1:]
        if taken is not None:
            own = [*(parameter for parameter in own if parameter.kind not in _STARRED), *_handed_on(own, taken)]
        taken = sorted((p for p in own if not _takes_nothing(p)), key=lambda parameter: parameter.kind)
    return Signature(taken)


def _handed_on(own: Sequence[Parameter], base: Sequence[Parameter]) -> Iterator[Parameter]:
    """The arguments of a base that a constructor with ``**kwargs`` can be given beside its own."""
    kinds = {parameter.name: parameter.kind for parameter in own if parameter.kind not in _STARRED}
    first = [parameter for parameter in own if parameter.kind in _BY_POSITION]
    by_position = any(parameter.kind is Parameter.VAR_POSITIONAL for parameter in own)
    by_position = by_position and [p.name for p in first] == [p.name for p in base[: len(first)]]
    optional = any(parameter.default is not Parameter.empty for parameter in first)
    for parameter in base:
        if parameter.name in kinds:
            # places behind one that is given by name cannot be reached
            by_position = by_position and kinds[parameter.name] in _BY_POSITION
        # nor those behind one that may be left out and one that may not
        elif by_position := by_position and not (optional and parameter.default is Parameter.empty):
            yield parameter
        elif parameter.kind in (Parameter.KEYWORD_ONLY, Parameter.VAR_KEYWORD):
            yield parameter
        elif parameter.kind is Parameter.POSITIONAL_OR_KEYWORD:
            yield parameter.replace(kind=Parameter.KEYWORD_ONLY)


def _takes_nothing(parameter: Parameter) -> bool:
    return parameter.kind is Parameter.VAR_KEYWORD and parameter.annotation in ("Never", Never)


def constructor_types(cls: type) -> dict[str, Any]:
    """The types of what a class is called with, by name; see :func:`constructor_signature`.

    Raises:
        NameError: If an annotation names something that its module does not have.
    """
    found: dict[str, Any] = {}
    for constructor in _constructors(cls):
        found = get_type_hints(constructor) | found
    return found


def _constructors(cls: type) -> Iterator[Callable[..., None]]:
    """The constructor of a class, and those of its bases to which it hands ``**kwargs`` on."""
    for kind in cls.__mro__[:-1]:  # object takes nothing, whatever it says
        if "__init__" in vars(kind):
            # as an attribute: a partialmethod becomes a function
            constructor: Callable[..., None] = kind.__init__  # type: ignore[misc]
            yield constructor
            parameters = inspect.signature(constructor).parameters.values()
            if not any(p.kind is Parameter.VAR_KEYWORD and not _takes_nothing(p) for p in parameters):
                return


class SharesArguments:
    """Base of classes whose subclasses hand arguments on to them.

    ``inspect.signature`` of a subclass, and its docstring, then have all arguments.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.__doc__ = _with_documents_of_bases(cls)

    class _Signature:
        """Of a class. An instance has none: it may be callable itself, with other arguments."""

        def __get__(self, instance: object | None, owner: type) -> Signature:
            if instance is not None:
                raise AttributeError("__signature__")
            return constructor_signature(owner)

    __signature__ = _Signature()


def takes(options: type) -> Callable[[Function], Function]:
    """Show what a class is called with in place of a function's ``**kwargs``, which are handed on to that class.

    Args:
        options: Such as a dataclass; its docstring describes the arguments.
    """

    def decorate(function: Function) -> Function:
        own = [p for p in inspect.signature(function).parameters.values() if p.kind is not Parameter.VAR_KEYWORD]
        more = [p.replace(kind=Parameter.KEYWORD_ONLY) for p in inspect.signature(options).parameters.values()]
        vars(function)["__signature__"] = Signature([*own, *more])
        return function

    return decorate


def documented_arguments(cls: type) -> dict[str, str]:
    """The arguments in a class' docstring as written there: ``"    name: text"``, the lines that follow included."""
    text = inspect.cleandoc(cls.__doc__ or "")
    section = re.search(r"^Args:\n(?P<body>(?:(?: .*)?\n)*(?: .*)?)", text, re.MULTILINE)
    items = _ARGUMENT.finditer(section["body"]) if section else ()
    return {item["name"]: item.group().rstrip() for item in items}


def _with_documents_of_bases(cls: type) -> str | None:
    if cls.__doc__ is None:  # not documented, or python -OO
        return None
    own = documented_arguments(cls)
    bases: dict[str, str] = {}
    for kind in reversed(cls.__mro__[1:]):
        bases |= documented_arguments(kind)
    missing = [bases[name] for name in constructor_signature(cls).parameters if name not in own and name in bases]
    if not missing:
        return cls.__doc__
    text, listed = inspect.cleandoc(cls.__doc__), "\n".join(missing)
    if not own:
        return f"{text}\n\nArgs:\n{listed}"
    last = list(own.values())[-1]
    return text.replace(last, f"{last}\n{listed}", 1)

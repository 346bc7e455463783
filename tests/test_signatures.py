"""Arguments that are handed on to a base class, or to a dataclass, are seen from outside."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from functools import partialmethod
from typing import Any

import pytest
from typing_extensions import Never

from dyvision.signatures import (
    SharesArguments,
    constructor_signature,
    constructor_types,
    documented_arguments,
    takes,
)


class Base(SharesArguments):
    """The base.

    Args:
        first: The first,
            on two lines.
        second: The second.

    Raises:
        ValueError: Never.
    """

    def __init__(self, first: int, second: str = "b", *, third: float = 0.5) -> None:
        self.given = (first, second, third)


class Middle(Base):
    """One that only passes everything on."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)


class Leaf(Middle):
    """One of its own.

    Args:
        own: Its own.

    Example:
        None.
    """

    def __init__(self, *args: Any, own: int = 1, second: str = "c", **kwargs: Any) -> None:
        super().__init__(*args, second=second, **kwargs)

    def __call__(self, image: int) -> None:
        """Not the constructor."""


class Closed(Base):
    """One that takes nothing of the base."""

    def __init__(self, width: int = 3) -> None:
        super().__init__(width)


def test_signatures_follow_what_is_handed_on():
    assert str(inspect.signature(Leaf)) == (
        "(first: 'int', *, own: 'int' = 1, second: 'str' = 'c', third: 'float' = 0.5)"
    )
    assert inspect.signature(Middle) == inspect.signature(Base) == constructor_signature(Base)
    assert list(inspect.signature(Closed).parameters) == ["width"]
    inspect.signature(Leaf).bind(1, own=2, third=1.0)
    with pytest.raises(TypeError):
        inspect.signature(Leaf).bind(1, "positional")
    assert Leaf(1, third=1.0).given == (1, "c", 1.0)


def test_own_positional_arguments_stand_before_nothing_of_the_base():
    class Positional(Base):
        def __init__(self, width: int, **kwargs: Any) -> None:
            super().__init__(width, **kwargs)

    kinds = {name: parameter.kind.name for name, parameter in inspect.signature(Positional).parameters.items()}
    assert kinds["width"] == "POSITIONAL_OR_KEYWORD" and kinds["second"] == kinds["third"] == "KEYWORD_ONLY"


def test_own_positional_arguments_that_are_the_first_of_the_base_are_followed_by_its_next():
    class Named(Base):
        def __init__(self, first: int, *args: Any, own: int = 1, **kwargs: Any) -> None:
            super().__init__(first, *args, **kwargs)

    class Renamed(Base):
        def __init__(self, width: int, *args: Any, **kwargs: Any) -> None:
            super().__init__(width, *args, **kwargs)

    assert str(inspect.signature(Named)) == (
        "(first: 'int', second: 'str' = 'b', *, own: 'int' = 1, third: 'float' = 0.5)"
    )
    assert Named(1, "x", own=2).given == (1, "x", 0.5)
    assert inspect.signature(Renamed).parameters["second"].kind is inspect.Parameter.KEYWORD_ONLY


def test_places_that_cannot_be_reached_are_given_by_name():
    class Sizes(SharesArguments):
        def __init__(self, inputs: int, outputs: int, kernel: int = 3) -> None:
            self.sizes = (inputs, outputs, kernel)

    class Optional(Sizes):
        def __init__(self, inputs: int = 3, *args: Any, **kwargs: Any) -> None:
            super().__init__(inputs, *args, **kwargs)

    class Middle(Sizes):
        def __init__(self, *args: Any, outputs: int = 8, **kwargs: Any) -> None:
            super().__init__(*args, outputs=outputs, **kwargs)

    assert str(inspect.signature(Optional)) == "(inputs: 'int' = 3, *, outputs: 'int', kernel: 'int' = 3)"
    assert Optional(outputs=4).sizes == (3, 4, 3)
    assert str(inspect.signature(Middle)) == "(inputs: 'int', *, outputs: 'int' = 8, kernel: 'int' = 3)"
    assert Middle(2, kernel=1).sizes == (2, 8, 1)


def test_keywords_of_type_never_are_none():
    class Refusing(SharesArguments):
        def __init__(self, width: int = 1, **unknown: Never) -> None:
            if unknown:
                raise TypeError(f"no argument {', '.join(unknown)}")

    class Child(Refusing):
        def __init__(self, *args: Any, own: int = 2, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)

    assert str(inspect.signature(Refusing)) == "(width: 'int' = 1)"
    assert str(inspect.signature(Child)) == "(width: 'int' = 1, *, own: 'int' = 2)"
    with pytest.raises(TypeError, match="no argument wdith"):
        Child(wdith=2)


def test_a_base_without_arguments_is_handed_none():
    class Nothing(SharesArguments):
        def __init__(self) -> None: ...

    class Child(Nothing):
        def __init__(self, width: int = 1, **kwargs: Any) -> None:
            super().__init__(**kwargs)

    assert str(inspect.signature(Child)) == "(width: 'int' = 1)"


def test_a_constructor_with_arguments_set_is_followed():
    class Narrow(Leaf):
        __init__ = partialmethod(Leaf.__init__, own=3)

    assert inspect.signature(Narrow).parameters["own"].default == 3
    assert list(inspect.signature(Narrow).parameters) == list(inspect.signature(Leaf).parameters)


def test_a_class_that_takes_anything_says_so():
    class Anything:
        def __init__(self, width: int = 1, **anything: Any) -> None: ...

    assert str(constructor_signature(Anything)) == "(width: 'int' = 1, **anything: 'Any')"


def test_types_follow_what_is_handed_on():
    types = constructor_types(Leaf)
    assert {name: types[name] for name in ("first", "own", "second", "third")} == {
        "first": int,
        "own": int,
        "second": str,
        "third": float,
    }
    assert constructor_types(Closed).keys() == {"width", "return"}


def test_a_callable_instance_has_its_own_signature():
    assert list(inspect.signature(Leaf(1)).parameters) == ["image"]


def test_docstrings_have_the_arguments_of_the_base():
    assert list(documented_arguments(Leaf)) == ["own", "first", "second"]
    assert "first: The first,\n        on two lines." in (Leaf.__doc__ or "")
    assert (Leaf.__doc__ or "").rstrip().endswith("Example:\n    None.")
    assert documented_arguments(Middle).keys() == {"first", "second"}
    assert Closed.__doc__ == "One that takes nothing of the base."


def test_a_function_shows_the_fields_of_its_options():
    @dataclass(kw_only=True)
    class Options:
        width: int = 2
        depth: int = 3

    @takes(Options)
    def build(network: object, **options: Any) -> Options:
        return Options(**options)

    assert list(inspect.signature(build).parameters) == ["network", "width", "depth"]
    assert inspect.isfunction(build) and build(None, depth=4) == Options(depth=4)

"""If these failed, a misspelt component in a config would be a traceback instead of a sentence."""

from __future__ import annotations

import pytest

from dyvision.tasks.components import check_arguments, choose, closest, import_object, parse_component


def function(first: int, second: int = 0) -> None:
    """Has two arguments."""


class Parent:
    def __init__(self, width: int, **others: int) -> None: ...


class Child(Parent):
    def __init__(self, depth: int, **others: int) -> None: ...


class Closed(Child):
    def __init__(self, height: int) -> None: ...


def test_three_ways_to_say_it():
    assert parse_component("sgd", "optimizer").kind == "name"
    component = parse_component({"type": "UPerHead", "channels": 8}, "head")
    assert (component.kind, component.name, component.arguments) == ("type", "UPerHead", {"channels": 8})
    component = parse_component({"class_path": "a.B", "init_args": {"c": 1}}, "head")
    assert (component.kind, component.name, component.arguments) == ("class_path", "a.B", {"c": 1})
    assert parse_component({"class_path": "a.B", "init_args": None}, "head").arguments == {}


@pytest.mark.parametrize("spec", ["", {}, {"name": "a", "type": "b"}, {"name": 3}, 5, None, ["a"]])
def test_anything_else_is_refused(spec):
    with pytest.raises(ValueError, match=r"head=.*exactly one of"):
        parse_component(spec, "head")


def test_the_dictionary_given_is_not_changed():
    spec = {"name": "sgd", "momentum": 0.9}
    parse_component(spec, "optimizer")
    assert spec == {"name": "sgd", "momentum": 0.9}


def test_messages():
    assert closest("deeplab3", ["deeplabv3", "fcn"]) == "did you mean 'deeplabv3'?"
    assert closest("xyz", ["b", "a"]) == "choose from a, b"
    with pytest.raises(ValueError, match="unknown head 'fnc'; did you mean 'fcn'"):
        choose("fnc", ["fcn", "lraspp"], "head")


def test_arguments_are_looked_up_through_base_classes():
    check_arguments(function, {"first": 1}, "function")
    with pytest.raises(ValueError, match="function has no argument 'frist'; did you mean 'first'"):
        check_arguments(function, {"frist": 1}, "function")
    with pytest.raises(ValueError, match="has no argument 'width'; "):
        check_arguments(Closed, {"width": 1}, "Closed")
    # whatever a class passes on without naming it
    check_arguments(Child, {"anything": 1}, "Child")


def test_import():
    assert import_object("collections.OrderedDict", "head", dict).__name__ == "OrderedDict"
    for path, message in (
        ("collections.OrderdDict", "OrderedDict"),
        ("nothing.X", "cannot import"),
        ("X", "not exist"),
    ):
        with pytest.raises(ValueError, match=message):
            import_object(path, "head", dict)

"""Checks of classification data that look at all samples or classes at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dyvision.data.class_names import look_alikes
from dyvision.data.findings import Findings
from dyvision.data.same_files import several_labels
from dyvision.text import some


def check_names(source: Path, names: Sequence[str], findings: Findings) -> None:
    """Looks at the names of the classes: whether there are several, and whether two are easily taken for each other.

    Args:
        source: Where they are from.
        names: Of class folders, or as a list has them.
        findings: Is told.
    """
    if len(names) == 1:
        findings.warned(source, f"there is one class only, {names[0]!r}", "nothing can be told apart")
    for alike in look_alikes(names):
        findings.warned(
            source,
            "names of classes that differ in case, spaces or Unicode form only",
            "each is a class of its own",
            some(map(repr, alike)),
        )


def check_labels(
    source: Path, samples: Sequence[tuple[str, int]], names: Sequence[str], listed: bool, findings: Findings
) -> None:
    """Looks for pictures of two classes and for classes without a picture.

    Args:
        source: The folder of the split, or its list.
        samples: Image file and label of each.
        names: Of the classes.
        listed: Whether ``source`` is a list; then two classes of a picture are refused, not warned about.
        findings: Is told.

    Raises:
        DataError: If a list has a picture with two classes, unless refusals are collected.
    """
    paths, labels = [path for path, _ in samples], [label for _, label in samples]
    for earlier, later in several_labels(paths, labels):
        what = "a picture is of two classes"
        where = f"{paths[later]} is {names[labels[earlier]]!r} and {names[labels[later]]!r}"
        if listed:
            findings.refused_because(source, what, "remove one of its lines", where)
        else:
            findings.warned(source, f"{what}, by a link", "trained on and evaluated as both", where)
    images = set(labels)
    empty = [name for label, name in enumerate(names) if label not in images]
    if empty:
        findings.warned(
            source, f"{len(empty)} classes have no image here: {some(empty)}", "they stay classes of the network"
        )

"""JSON and YAML of any origin: what is too deep, expands without end or is not well-formed is one sentence.

The parsers below recurse, so a file of a few kilobytes can exhaust the stack, and YAML's aliases let a file of one
kilobyte stand for billions of values ("billion laughs").
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from dyvision.text import one_line

#: levels of lists and mappings; configurations have about ten
MAX_DEPTH = 100
#: values in one YAML document or one checkpoint's hyperparameters, aliases written out
MAX_VALUES = 200_000

# libyaml's parser is linear and refuses deep nesting; PyYAML's own one is quadratic in the depth
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_json(path: Path, encoding: str = "utf-8-sig") -> Any:
    """Read a JSON file.

    Raises:
        OSError: If it cannot be opened.
        ValueError: If it is not JSON, not text, or nested too deeply.
    """
    try:
        return json.loads(path.read_text(encoding=encoding))
    except RecursionError:
        raise ValueError(f"{path}: lists or objects are nested too deeply to be read") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: no text in {encoding} ({error.reason} at byte {error.start})") from error
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON: {one_line(error)}") from error


def read_yaml(path: Path, unique_keys: bool = False) -> Any:
    """Read a YAML file with plain types only.

    Args:
        path: The file.
        unique_keys: Refuse a key that a mapping has twice: of these YAML keeps the last.

    Raises:
        OSError: If it cannot be opened.
        ValueError: If it is not YAML, not UTF-8, nested too deeply, or stands for too many values; or a key is given
            twice.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not valid YAML: no UTF-8 ({error.reason} at byte {error.start})") from error
    content = parse_yaml(text, str(path))
    if unique_keys:
        _check_unique_keys(text, str(path))
    return content


def parse_yaml(text: str, where: str) -> Any:
    """Parse YAML with plain types only.

    Args:
        text: The document.
        where: The file or option it comes from, for messages.

    Raises:
        ValueError: As for :func:`read_yaml`.
    """
    check_yaml(text, where)
    try:
        return yaml.load(text, Loader=_LOADER)
    except RecursionError:
        raise ValueError(f"{where}: lists or mappings are nested too deeply to be read") from None
    # the constructors of single values (dates, numbers with thousands of digits) raise whatever they meet
    except Exception as error:
        raise ValueError(f"{where}: not valid YAML: {one_line(error)}") from error


def _check_unique_keys(text: str, where: str) -> None:
    """Name a key that is given twice, and both lines; the document has been parsed."""
    pending: list[Any] = [yaml.compose(text, Loader=_LOADER)]
    seen: set[int] = set()
    while pending:
        node = pending.pop()
        if node is None or id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            lines: dict[str, int] = {}
            for key, value in node.value:
                name, line = key.value, key.start_mark.line + 1
                if isinstance(name, str) and name != "<<" and name in lines:
                    raise ValueError(
                        f"{where}: {name!r} stands in line {lines[name]} and again in line {line}; only the last one "
                        "would count: join them"
                    )
                if isinstance(name, str):
                    lines[name] = line
                pending.append(value)
        elif isinstance(node, yaml.SequenceNode):
            pending += node.value


def check_yaml(text: str, where: str) -> None:
    """Check how deep a YAML document is and how many values it stands for, without building any.

    Raises:
        ValueError: If it is too deep or stands for too many; a document that is not well-formed is left to its parser.
    """
    if not any(sign in text for sign in "[{&*-:"):
        return
    if _LOADER is yaml.SafeLoader and _brackets(text) > MAX_DEPTH:
        raise ValueError(f"{where}: nested more than {MAX_DEPTH} levels deep")
    sizes: dict[str, int] = {}  # values below each anchor
    open_nodes: list[tuple[str | None, int]] = []  # anchor, and how many values there were before it
    count = 0
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            if isinstance(event, yaml.AliasEvent):
                # an alias to a node that is still open stands for itself, without end
                if any(anchor == event.anchor for anchor, _ in open_nodes):
                    raise ValueError(f"{where}: the alias *{event.anchor} stands inside its own anchor")
                count += sizes.get(event.anchor or "", 1)
            elif isinstance(event, yaml.NodeEvent):
                count += 1
                if isinstance(event, yaml.CollectionStartEvent):
                    open_nodes.append((event.anchor, count - 1))
                elif event.anchor is not None:
                    sizes[event.anchor] = 1
            elif isinstance(event, yaml.CollectionEndEvent):
                anchor, before = open_nodes.pop()
                if anchor is not None:
                    sizes[anchor] = count - before
            if len(open_nodes) > MAX_DEPTH:
                raise ValueError(f"{where}: nested more than {MAX_DEPTH} levels deep")
            if count > MAX_VALUES:
                raise ValueError(f"{where}: stands for more than {MAX_VALUES:,} values, aliases (*name) written out")
    except yaml.YAMLError as error:
        if "maximum nesting depth" in str(error):
            raise ValueError(f"{where}: nested more than {MAX_DEPTH} levels deep") from error


class Place(NamedTuple):
    """Where a value is: a name, or a key of a mapping at another place.

    It becomes text only where that is asked for: a key may be as long as a file, and above a million values.
    """

    key: Any
    above: Place | None = None

    def __str__(self) -> str:
        return str(self.key) if self.above is None else f"{self.above}.{self.key}"


def walk(value: Any, where: str, most_levels: int, most_values: int) -> Iterator[tuple[Any, Place]]:
    """Go through everything in mappings, lists and tuples; whoever made them, it ends.

    Args:
        value: Where to begin.
        where: Its name.
        most_levels: How deep it may nest.
        most_values: How many values it may have; one that occurs several times counts each time.

    Yields:
        Each value, those that hold others before these, and its place; of a list's values that of the list.

    Raises:
        ValueError: If there are more values or levels; a value that holds itself has.
    """
    count = 0
    pending = [(value, Place(where), 1)]
    while pending:
        item, place, level = pending.pop()
        count += 1
        if level > most_levels:
            raise ValueError(f"{where}: nested more than {most_levels} levels deep")
        if count + len(pending) > most_values:
            raise ValueError(f"{where}: stands for more than {most_values:,} values")
        yield item, place
        if isinstance(item, Mapping):
            pending.extend((below, Place(key, place), level + 1) for key, below in item.items())
        elif isinstance(item, list | tuple):
            pending.extend((below, place, level + 1) for below in item)


def check_plain(value: Any, where: str) -> None:
    """Check that a value is made of numbers, strings, lists and mappings, and can be walked through in the end.

    Args:
        value: What a checkpoint holds; objects that occur several times count each time, as they would when printed.
        where: Name for messages.

    Raises:
        ValueError: If it holds anything else, itself, too many values or too many levels, integers of more than 64
            bits, or text that no file can hold; names the place.
    """
    for item, place in walk(value, where, MAX_DEPTH, MAX_VALUES):
        if isinstance(item, Mapping):
            for key in item:
                if not isinstance(key, str | int | float | bool | None):
                    raise ValueError(f"{place}: a key is {type(key).__name__}, expected text or a number")
                if isinstance(key, str) and not _is_text(key):
                    raise ValueError(f"{place}: the name {ascii(key)[:60]} has half a character, expected text")
        elif isinstance(item, list | tuple):
            continue
        elif not isinstance(item, str | int | float | bool | None):
            raise ValueError(f"{place}: {type(item).__name__}, expected numbers, text, lists or mappings")
        elif isinstance(item, str) and not _is_text(item):
            raise ValueError(
                f"{place}: {ascii(item)[:60]} has half a character, expected text; give "
                f"{str(place).rpartition(': ')[2]} yourself"
            )
        elif isinstance(item, int) and not -(2**63) <= item < 2**64:
            raise ValueError(
                f"{place}: an integer of {item.bit_length()} bits, expected one of at most 64; give "
                f"{str(place).rpartition(': ')[2]} yourself"
            )


def _is_text(value: str) -> bool:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:  # half a character: a byte of a file name that is no UTF-8, or made up
        return False
    return True


def _brackets(text: str) -> int:
    deepest = depth = 0
    for sign in text:
        if sign in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif sign in "]}":
            depth = max(0, depth - 1)
    return deepest


def texts_in(value: Any) -> Iterator[str]:
    """Every text in nested mappings and lists, keys among them."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, below in value.items():
            yield from texts_in(key)
            yield from texts_in(below)
    elif isinstance(value, list | tuple):
        for below in value:
            yield from texts_in(below)

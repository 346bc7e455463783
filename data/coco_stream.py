"""Reads a large JSON object list by list: one element at a time is a Python object, all of them never.

An annotation file of COCO's size becomes gigabytes of dictionaries when it is loaded at once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from dyvision.data.errors import DataError, did_you_mean
from dyvision.text import one_line

_SPACE = re.compile(r"[ \t\n\r]*")
_AFTER_ELEMENT = re.compile(r"[ \t\n\r]*([,\]])[ \t\n\r]*")
_AFTER_VALUE = re.compile(r"[ \t\n\r]*([,}])[ \t\n\r]*")
_COLON = re.compile(r"[ \t\n\r]*:[ \t\n\r]*")

#: how files of other kinds begin
_OTHERS = {
    b"\x1f\x8b": "compressed (gzip): unpack it",
    b"PK\x03\x04": "a zip archive: unpack it",
    b"version https://git-lfs": "a pointer of Git LFS: run 'git lfs pull'",
    b"<": "HTML or XML",
}

Handler = Callable[[Iterator[Any]], None]


def read_json(path: Path, handlers: dict[str, Handler], skip: frozenset[str] = frozenset()) -> dict[str, Any]:
    """Reads a JSON object whose long lists are handed out one element at a time.

    Args:
        path: The file, in UTF-8, UTF-16 or UTF-32, with or without a byte order mark.
        handlers: For these keys, what takes the elements if the value is a list.
        skip: Keys whose values are not wanted: their lists are parsed and dropped.

    Returns:
        The object; an empty list for keys whose list went to a handler or was dropped.

    Raises:
        DataError: If the file is missing, is not JSON, is nested too deeply, is no object or has one of ``handlers``
            twice.
    """
    try:
        text = path.read_text(encoding=_encoding(path))
        return _Reader(text, path, handlers, skip).object()
    except FileNotFoundError:
        siblings = sorted(item.name for item in path.parent.glob("*.json")) if path.parent.is_dir() else []
        raise DataError(f"there is no annotation file {path}.{did_you_mean(path.name, siblings)}") from None
    except DataError:
        raise
    except (OSError, ValueError) as error:
        reason = one_line(error)
        raise DataError(f"{path}: not a JSON file ({reason}); expected COCO's instances format.") from error
    except RecursionError:
        raise DataError(f"{path}: the JSON is nested too deeply to be an annotation file.") from None


def _encoding(path: Path) -> str:
    if path.exists() and not path.is_file():
        raise DataError(f"{path}: a folder, pipe or device; expected COCO's instances format in a file.")
    with path.open("rb") as file:
        start = file.read(64)
    found = next((what for sign, what in _OTHERS.items() if start.startswith(sign)), None) if start else "empty"
    if found is not None:
        raise DataError(f"{path}: the file is {found}; expected COCO's instances format.")
    return json.detect_encoding(start)


def _drop(elements: Iterator[Any]) -> None:
    for _ in elements:
        pass


class _Reader:
    def __init__(self, text: str, path: Path, handlers: dict[str, Handler], skip: frozenset[str]) -> None:
        self._text, self._path = text, path
        self._handlers = {**dict.fromkeys(skip, _drop), **handlers}
        self._decode = json.JSONDecoder().raw_decode
        self._position = 0

    def object(self) -> dict[str, Any]:
        text = self._text
        self._position = self._match(_SPACE)
        if text[self._position : self._position + 1] != "{":
            value = json.loads(text)
            kind = {list: "a list", type(None): "null"}.get(type(value), type(value).__name__)
            raise DataError(f"{self._path}: no list 'images' (found: {kind}); expected COCO's instances format.")
        result: dict[str, Any] = {}
        self._position += 1
        self._position = self._match(_SPACE)
        more = text[self._position : self._position + 1] != "}"
        if not more:
            self._position += 1
        while more:
            key = self._value()
            if not isinstance(key, str):
                raise json.JSONDecodeError("Expecting property name enclosed in double quotes", text, self._position)
            self._position = self._match(_COLON, "Expecting ':' delimiter")
            handler = self._handlers.get(key)
            if handler is not None and key in result:
                raise DataError(f"{self._path}: {key!r} appears twice; join the two lists.")
            if handler is not None and text[self._position : self._position + 1] == "[":
                handler(self._elements())
                result[key] = []
            else:
                result[key] = self._value()
            more = self._separator(_AFTER_VALUE, "Expecting ',' delimiter") == ","
        if self._match(_SPACE) != len(text):
            raise json.JSONDecodeError("Extra data", text, self._position)
        return result

    def _elements(self) -> Iterator[Any]:
        text, decode = self._text, self._decode
        position = _SPACE.match(text, self._position + 1).end()  # type: ignore[union-attr]  # matches anything
        after = _AFTER_ELEMENT.match
        if text[position : position + 1] == "]":
            self._position = position + 1
            return
        while True:
            value, position = decode(text, position)
            yield value
            found = after(text, position)
            if found is None:
                raise json.JSONDecodeError("Expecting ',' delimiter", text, position)
            position = found.end()
            if found[1] == "]":
                self._position = position
                return

    def _value(self) -> Any:
        value, self._position = self._decode(self._text, self._position)
        return value

    def _match(self, pattern: re.Pattern[str], problem: str = "") -> int:
        found = pattern.match(self._text, self._position)
        if found is None:
            raise json.JSONDecodeError(problem, self._text, self._position)
        return found.end()

    def _separator(self, pattern: re.Pattern[str], problem: str) -> str:
        found = pattern.match(self._text, self._position)
        if found is None:
            raise json.JSONDecodeError(problem, self._text, self._position)
        self._position = found.end()
        return found[1]

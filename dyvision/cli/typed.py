"""The options of a command line, read once and in order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from dyvision.reading import parse_yaml

_SHORT = {"-c": "config", "-h": "help"}
#: options that stand alone
_FLAGS = ("-h", "--help", "--print_config")


@dataclass
class TypedOptions:
    """What was typed behind a command: ``--name=value``, ``--name value`` or ``--name``.

    Attributes:
        pairs: Name without dashes, and its text, None where none was given; in the order of the command line.
        words: What is no option.
    """

    pairs: list[tuple[str, str | None]] = field(default_factory=list)
    words: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, arguments: Sequence[str]) -> TypedOptions:
        """Read a command line.

        Args:
            arguments: What stands behind the command.
        """
        options = cls()
        pending: str | None = None  # an option whose value may be the next argument
        for argument in arguments:
            if pending is not None and not argument.startswith("--"):
                options.pairs[-1] = (pending, argument)
                pending = None
            elif argument.startswith("-") and argument != "-":
                name, equals, value = argument.partition("=")
                short = _SHORT.get(name, name.lstrip("-"))
                options.pairs.append((short, value if equals else None))
                pending = None if equals or name in _FLAGS else short
            else:
                options.words.append(argument)
        return options

    def __iter__(self) -> Iterator[tuple[str, str | None]]:
        return iter(self.pairs)

    def __contains__(self, name: object) -> bool:
        """Whether an option was typed, without dashes, with or without a value."""
        return any(typed == name for typed, _ in self.pairs)

    def get(self, name: str) -> str | None:
        """The last value of an option, given without dashes; None if there is none."""
        values = [value for typed, value in self.pairs if typed == name]
        return values[-1] if values else None

    def take(self, name: str) -> list[str | None]:
        """Remove an option and return its values, in order."""
        taken = [value for typed, value in self.pairs if typed == name]
        self.pairs = [pair for pair in self.pairs if pair[0] != name]
        return taken

    def arguments(self) -> list[str]:
        """The options as a command line, one argument each."""
        return [f"--{name}" if value is None else f"--{name}={value}" for name, value in self.pairs]


def typed_value(text: str, option: str) -> Any:
    """What a typed text is as YAML. One that is none stays text: the parser of options says what it expected.

    Args:
        text: As it was typed.
        option: Name without dashes, for messages.

    Raises:
        ValueError: If it is nested too deeply or stands for too many values.
    """
    try:
        return parse_yaml(text, f"--{option}")
    except ValueError as error:
        if "not valid YAML" in str(error):
            return text
        raise

"""Options that do not fit a layer's channels: the largest that does in their place, or no layer at all."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from dyvision.layers.arguments import DoesNotFitError
from dyvision.text import some

Made = TypeVar("Made")
#: an option falls once per layer that shares kernels, as a rule not at all
_TRIES = 100


class Fitting:
    """Builds layers, and remembers those that take other options than the given ones, or none.

    Args:
        options: The options as they were given.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = dict(options)
        #: names of layers, and what they have instead
        self.reduced: dict[str, dict[str, Any]] = {}
        #: names of convolutions that stay static, and why
        self.static: dict[str, str] = {}

    def build(self, names: Iterable[str], make: Callable[[dict[str, Any]], Made]) -> Made | None:
        """What ``make`` makes of the options, or of the largest that fit.

        Args:
            names: Of the layers that it makes.
            make: Takes the options.

        Returns:
            None if no value of an option fits: the layers' names and the reason are in ``static`` then.

        Raises:
            ValueError: If an option is wrong in itself.
        """
        names, changed = list(names), dict[str, Any]()
        for _ in range(_TRIES):
            try:
                made = make({**self.options, **changed})
            except DoesNotFitError as error:
                reason = str(error)
                if error.fits is None or error.fits == {**self.options, **changed}.get(error.argument):
                    break
                changed[error.argument] = error.fits
            else:
                if changed:
                    self.reduced.update(dict.fromkeys(names, changed))
                return made
        self.static.update(dict.fromkeys(names, reason))
        return None

    def warn(self, converted: int) -> None:
        """Warn once of all of them.

        Args:
            converted: How many layers there are.
        """
        parts = []
        if self.reduced:
            wrong = sorted({name for changed in self.reduced.values() for name in changed})
            given = ", ".join(f"{name}={self.options[name]!r}" for name in wrong)
            named = (f"{name} ({self.instead(name)})" for name in self.reduced)
            parts.append(
                f"{given} does not fit {len(self.reduced)} of {converted} layers, which take the largest that does: "
                f"{some(named, 3)}"
            )
        if self.static:
            named = (f"{name} ({reason})" for name, reason in self.static.items())
            parts.append(f"{len(self.static)} convolutions stay static, which no value fits: {some(named, 3)}")
        if parts:
            warnings.warn(f"dynamize: {'; '.join(parts)}", stacklevel=3)

    def instead(self, name: str) -> str:
        """The options that a layer has instead of the given ones; empty if it has those."""
        return ", ".join(f"{option}={_short(value)}" for option, value in self.reduced.get(name, {}).items())


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else repr(value)

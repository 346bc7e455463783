"""What a look at a data set finds: repaired, warned about, or refused.

Every reader reports to a :class:`Findings`. In training and evaluation the first refusal ends the command and the rest
is one warning per kind; ``dyvision data check`` collects all of it into a table. So both see the same.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Literal

from dyvision.data.errors import DataError
from dyvision.data.samplers import rank_and_world

Outcome = Literal["repaired", "warned", "refused"]

_EXAMPLES = 3


@dataclass
class Finding:
    """One kind of finding in one file.

    Attributes:
        outcome: ``"repaired"`` (read as what was meant), ``"warned"`` (read as it is; probably not what was meant) or
            ``"refused"`` (training does not start).
        file: The file or folder, as given.
        what: What is wrong, such as ``"iscrowd is text"``; the same words for all findings of this kind.
        training: What training does with it, such as ``"read as a number"``.
        count: How often it was found.
        examples: Where, the first few: ``"annotation 12"``, a file name, or nothing if the file itself is meant.
    """

    outcome: Outcome
    file: str
    what: str
    training: str
    count: int = 0
    examples: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        where = ""
        if self.examples:
            more = f" and {self.count - len(self.examples)} more" if self.count > len(self.examples) else ""
            where = f" ({', '.join(self.examples)}{more})"
        return f"{self.file}: {self.what}{where}; {self.training}."


class Findings:
    """Collects what readers find.

    Args:
        collect: Keep refusals, too, instead of raising the first one. A reader then leaves out what was refused and
            goes on as far as it can.

    Attributes:
        all: In the order in which each kind was first found.
    """

    def __init__(self, collect: bool = False) -> None:
        self.collect = collect
        self._all: dict[tuple[str, str, str, str], Finding] = {}

    @property
    def all(self) -> list[Finding]:
        """Everything found."""
        return list(self._all.values())

    @property
    def refused(self) -> bool:
        """Whether training would not start."""
        return any(finding.outcome == "refused" for finding in self._all.values())

    def repaired(self, file: object, what: str, training: str, where: str = "", count: int = 1) -> None:
        """Something was read as what was evidently meant."""
        self._add("repaired", file, what, training, where, count)

    def warned(self, file: object, what: str, training: str, where: str = "", count: int = 1) -> None:
        """Something was read as it is, and is probably not what was meant."""
        self._add("warned", file, what, training, where, count)

    def refused_because(self, file: object, what: str, fix: str, where: str = "") -> None:
        """Something cannot be read.

        Args:
            file: The file or folder.
            what: What is wrong, what was expected.
            fix: What to do.
            where: Which record of the file.

        Raises:
            DataError: Unless refusals are collected.
        """
        if not self.collect:
            raise DataError(f"{file}: {f'{where}: ' if where else ''}{what}; {fix}.")
        self._add("refused", file, what, fix, where, 1)

    def report(self, stacklevel: int = 2) -> None:
        """One warning per kind of repair or doubt; nothing if they are collected for a table.

        Of several processes, which all read the same files, the first one tells.
        """
        if self.collect:
            return
        if rank_and_world()[0] == 0:
            for finding in self._all.values():
                warnings.warn(str(finding), stacklevel=stacklevel + 1)
        self._all.clear()

    def _add(self, outcome: Outcome, file: object, what: str, training: str, where: str, count: int) -> None:
        key = (outcome, str(file), what, training)
        finding = self._all.setdefault(key, Finding(outcome, str(file), what, training))
        finding.count += count
        if where and len(finding.examples) < _EXAMPLES:
            finding.examples.append(where)

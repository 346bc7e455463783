"""Names of strangers (classes, files, hyperparameters) in terminals, tables and spreadsheets: shown, not obeyed."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.text import Text

#: categories that move the cursor, break the line or turn the direction of writing: controls, formats, halves of
#: characters, separators of lines
_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
#: format characters that words and emoji need: the joiners, and marks of a text's own direction
_NEEDED = frozenset("\u200c\u200d\u200e\u200f")
#: share of two names that has to agree (difflib) for one to be suggested for the other
_SIMILAR = 0.5
#: what makes a spreadsheet take a cell for a formula (OWASP, "CSV Injection"), the wide forms of East Asia included
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def printable(text: object) -> str:
    r"""Text for a terminal: control characters as escapes.

    Example:
        >>> printable("red\x1b[31m\nline")
        'red\\x1b[31m\\nline'
    """
    return "".join(map(_shown, str(text)))


def readable(name: str) -> str:
    r"""A name as text that every file can hold: bytes that the locale could not decode are read as UTF-8.

    With ``LC_ALL=C`` Python hands out each byte of ``ä`` as half a character, which neither YAML nor CSV take. What is
    no UTF-8 either is shown as escapes.

    Example:
        >>> readable("k\udcc3\udca4se"), readable("k\udce4se")
        ('käse', 'k\\xe4se')
    """
    try:
        name.encode("utf-8")
        return name
    except UnicodeEncodeError:
        pass
    try:
        raw = name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half a character of another origin, such as JSON's escapes
        raw = name.encode("utf-8", "surrogatepass")
    return raw.decode("utf-8", "backslashreplace")


def plain(text: object, style: str = "") -> Text:
    """A cell or a line for rich that is neither markup nor able to move the cursor: ``[/b]`` stays ``[/b]``."""
    from rich.text import Text

    return Text(printable(text), style=style)


def similar_names(name: object, known: Iterable[str], limit: int = 3) -> list[str]:
    """The known names that a wrong one is closest to, best first; upper and lower case count as the same.

    Example:
        >>> similar_names("ODCon", ["eca", "odconv", "condconv"])
        ['odconv', 'condconv']
    """
    spelt = {option.lower(): option for option in reversed(list(known))}
    return [spelt[match] for match in difflib.get_close_matches(str(name).lower(), spelt, n=limit, cutoff=_SIMILAR)]


def did_you_mean(name: object, known: Iterable[str], limit: int = 3) -> str:
    """The closest names as they stand behind a wrong one in a message; empty if nothing is close.

    Example:
        >>> did_you_mean("odcon", ["eca", "odconv"])
        " (did you mean 'odconv'?)"
    """
    return suggestion(similar_names(name, known, limit))


def suggestion(names: Sequence[str]) -> str:
    """The phrase of :func:`did_you_mean` for names that were found otherwise."""
    return f" ({question(names)})" if names else ""


def question(names: Iterable[str]) -> str:
    """The same without brackets, where a message goes on with it.

    Example:
        >>> question(["dcd", "dyconv"])
        "did you mean 'dcd' or 'dyconv'?"
    """
    return f"did you mean {' or '.join(map(repr, names))}?"


def some(items: Iterable[object], limit: int = 5) -> str:
    """Up to ``limit`` items separated by commas, and how many more there are.

    Example:
        >>> some(["a", "b", "c"]), some(range(9), 3)
        ('a, b, c', '0, 1, 2 and 6 more')
    """
    listed = [str(item) for item in items]
    more = f" and {len(listed) - limit} more" if len(listed) > limit else ""
    return ", ".join(listed[:limit]) + more


def csv_cell(value: Any) -> Any:
    """A cell that a spreadsheet does not take for a formula: text that begins like one gets an apostrophe.

    Numbers stay numbers: only text is changed.

    Example:
        >>> csv_cell("=1+1"), csv_cell("cat"), csv_cell(-0.5)
        ("'=1+1", 'cat', -0.5)
    """
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def first_line(error: BaseException, limit: int = 160) -> str:
    """The first line of an error's message for another message, shortened to ``limit`` characters; else its type."""
    text = str(error).strip()
    return text.splitlines()[0][:limit] if text else type(error).__name__


def one_line(error: BaseException) -> str:
    r"""An error's whole message as one line of another message; its type where it says nothing.

    Example:
        >>> one_line(ValueError("line 1:\n  a tab")), one_line(AssertionError())
        ('line 1: a tab', 'AssertionError')
    """
    return " ".join(str(error).split()) or type(error).__name__


def _shown(character: str) -> str:
    if unicodedata.category(character) not in _INVISIBLE or character in _NEEDED:
        return character
    return character.encode("unicode_escape").decode("ascii")

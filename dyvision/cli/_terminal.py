"""Standard output and error as they are found: any encoding, and readers that leave early (``| head``)."""

# ruff: noqa: RUF001  (the characters that look alike are what this is about)
from __future__ import annotations

import codecs
import io
import os
import sys
from typing import TextIO

_HANDLER = "dyvision.terminal"
_LOOK_ALIKES = {
    **dict.fromkeys("─━╌┄╸╺═–—‐‑−", "-"),
    **dict.fromkeys("│┃║╎┆", "|"),
    **dict.fromkeys("┌┐└┘├┤┬┴┼┏┓┗┛┡┩┢┪┳┻╇╈╭╮╯╰╔╗╚╝╠╣╦╩╬╞╡╪", "+"),
    **dict.fromkeys("█▉▊▋▌▍▎▏▇▆▅▄▃▂▁", "#"),
    **dict.fromkeys("•·●", "*"),
    **dict.fromkeys("‘’", "'"),
    **dict.fromkeys("“”„", '"'),
    **{"→": "->", "←": "<-", "×": "x", "…": "...", "±": "+-", "≥": ">=", "≤": "<=", "≈": "~", "µ": "u", "μ": "u"},
    **{"²": "2", "³": "3", "\u00a0": " ", "\u2009": " ", "\u202f": " "},
}


def prepare_streams() -> None:
    r"""Make standard output and error take every character, and outlive the program that reads them.

    A character that the encoding lacks becomes one that looks alike, or its escape (``\u4eba``). Once nobody reads any
    more, what is written is discarded: a run goes on, and a listing ends as if it had been read to its end.

    Streams that somebody put in the place of the process' own (a notebook, a test) are left alone.
    """
    codecs.register_error(_HANDLER, _substitute)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by the shell: ``>&-``
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))
        elif stream is getattr(sys, f"__{name}__") and type(stream) is io.TextIOWrapper:
            setattr(sys, name, _lasting(stream))


class _LastingStream(io.TextIOWrapper):
    """A stream whose reader may leave."""

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except BrokenPipeError:
            self._discard()
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except BrokenPipeError:
            self._discard()

    def _discard(self) -> None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)
        super().flush()  # what was left in the buffer


def _lasting(stream: io.TextIOWrapper) -> TextIO:
    stream.flush()
    return _LastingStream(
        stream.buffer,
        encoding=stream.encoding,
        errors=_HANDLER,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def _substitute(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(map(_printable, text)), error.end


def _printable(character: str) -> str:
    if "\u2800" <= character <= "\u28ff":  # Braille patterns: spinners
        return "*"
    return _LOOK_ALIKES.get(character) or character.encode("ascii", "backslashreplace").decode("ascii")

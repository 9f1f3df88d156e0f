"""A comment as it is read, and where in the original each part stands, in UTF-16 code units.

HTML is cut by one regular expression that never looks at a character twice, however broken it is: the standard
library's parser takes seconds for twenty kilobytes of tags that were made to hurt it. It follows the HTML standard
where a tag or comment ends, so that no text that a browser would show stays unread; only what is left open at the end
is read as text, which a browser would hide.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import unescape
from itertools import accumulate, pairwise

_ATTRIBUTES = r"""
(?: [\s/]++ | [^\s/>][^\s/>=]*+ (?: \s*+ = \s*+ (?: "[^"]*+ (?: "|\Z ) | '[^']*+ (?: '|\Z ) | [^\s>"'][^\s>]*+ )? )? )*+
"""
_MARKUP = re.compile(
    rf"""
    < (?: !-- (?: -? (?=>) | .*? (?: --!? (?=>) | \Z ) )
        | (?P<unread> script | style ) (?= [\s/>] ) {_ATTRIBUTES} > .*? (?: </ (?P=unread) (?= [\s/>] ) [^>]*+ | \Z )
        | /? (?P<tag> [a-z][^\s/>]*+ ) {_ATTRIBUTES}
        | [!?] [^>]*+
        | / (?: [^a-z>][^>]*+ )?
      )
      (?: > | (?P<open> \Z ) )
    """,
    re.VERBOSE | re.DOTALL | re.IGNORECASE | re.ASCII,
)
_ENTITY = re.compile(
    r"&(?:#0*+(?P<ten>[0-9]{1,7}+)(?![0-9])|#[xX]0*+(?P<sixteen>[0-9a-fA-F]{1,6}+)(?![0-9a-fA-F])"
    r"|[A-Za-z][A-Za-z0-9]{1,31});?"
)
_INLINE = re.compile(
    "a|abbr|b|bdi|bdo|big|cite|code|data|del|dfn|em|font|i|ins|kbd|label|mark|q|s|samp|small|span|strike|strong|sub|sup"
    "|time|tt|u|var|wbr",
    re.IGNORECASE,
)
"""Tags that do not part words: all others do."""
_SENTENCE_END = re.compile(r"(?<![.!?…])[.!?…]++(?:[ \xa0\u202f]?[»”\")\]])*\s+|\n\s*")


@dataclass(frozen=True)
class Span:
    """A part of a comment: its text as it is read, and from where to where it stands in the original, end exclusive."""

    text: str
    begin: int
    end: int


class Comment:
    """A comment's text without markup; `whole` and the sentences know their places in the original."""

    def __init__(self, original: str, *, is_html: bool = False) -> None:
        self.text, self._begins, self._ends = _read_html(original) if is_html else _read_plain(original)
        self._units = [0, *accumulate(2 if char > "\uffff" else 1 for char in original)]

    @property
    def whole(self) -> Span:
        """All of it, markup included."""
        return Span(self.text, 0, self._units[-1])

    def sentences(self, most: int) -> list[Span]:
        """Sentences without the white space around them; neighbours are joined where there are more than `most`."""
        ends = [match.end() for match in _SENTENCE_END.finditer(self.text)]
        parts = [part for part in pairwise([0, *ends, len(self.text)]) if self.text[slice(*part)].strip()]
        size = max(1, -(-len(parts) // max(1, most)))
        joined = [(group[0][0], group[-1][1]) for group in (parts[at : at + size] for at in range(0, len(parts), size))]
        return [self._span(begin, end) for begin, end in joined]

    def _span(self, begin: int, end: int) -> Span:
        text = self.text[begin:end]
        begin, end = begin + len(text) - len(text.lstrip()), end - len(text) + len(text.rstrip())
        return Span(self.text[begin:end], self._units[self._begins[begin]], self._units[self._ends[end - 1]])


Piece = tuple[str, int, int]
"""What is read, and the place of all of it in the original."""


def _read_plain(original: str) -> tuple[str, Sequence[int], Sequence[int]]:
    return original, range(len(original)), range(1, len(original) + 1)


def _read_html(original: str) -> tuple[str, Sequence[int], Sequence[int]]:
    """The text, and for each of its characters where its place in the original begins and ends."""
    read = [(char, begin, end) for piece, begin, end in _html_pieces(original) for char in piece]
    return "".join(char for char, _, _ in read), [begin for _, begin, _ in read], [end for _, _, end in read]


def _html_pieces(original: str) -> Iterator[Piece]:
    at = 0
    for match in _MARKUP.finditer(original):
        yield from _text_pieces(original, at, match.start())
        at = match.start()
        if match["open"] is not None:
            break
        at = match.end()
        if match["tag"] and not _INLINE.fullmatch(match["tag"]):
            yield "\n", match.start(), match.end()
    yield from _text_pieces(original, at, len(original))


def _text_pieces(original: str, begin: int, end: int) -> Iterator[Piece]:
    """Single characters, and what entities stand for."""
    for match in _ENTITY.finditer(original, begin, end):
        yield from ((original[at], at, at + 1) for at in range(begin, match.start()))
        yield _decoded(match), match.start(), match.end()
        begin = match.end()
    yield from ((original[at], at, at + 1) for at in range(begin, end))


def _decoded(entity: re.Match[str]) -> str:
    """As browsers do. Leading zeros stay out of it: Python refuses to read numbers of thousands of digits."""
    if entity["ten"] is not None:
        return unescape(f"&#{entity['ten']};")
    return unescape(f"&#x{entity['sixteen']};" if entity["sixteen"] is not None else entity[0])

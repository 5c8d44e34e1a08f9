"""Bytes of a rule file to text: byte order marks, encodings, line ends and characters that nobody sees."""

from __future__ import annotations

import re
from dataclasses import dataclass

from symmetra_mcp.errors import RuleFileError

MAX_FILE_BYTES = 1024 * 1024
"""The largest rule file met in public repositories is 299 kB; what is above 1 MiB is not written by hand."""
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
MAX_DATA_FILE_BYTES = 64 * 1024 * 1024
"""Of a YAML, JSON or JSONL file of ours, which programs write: some fifty thousand rules."""

_BOMS = (
    (b"\xff\xfe\x00\x00", "utf-32-le"),  # before UTF-16, whose mark it begins with
    (b"\x00\x00\xfe\xff", "utf-32-be"),
    (b"\xef\xbb\xbf", "utf-8"),
    (b"\xff\xfe", "utf-16-le"),
    (b"\xfe\xff", "utf-16-be"),
)

_EMOJI = r"[\u00a9\u00ae\u203c-\u3299\U0001f000-\U0001faff\ufe0f\u20e3]"
_JOINED_SCRIPTS = r"[\u0600-\u08ff\u0900-\u0dff\u1000-\u109f]"  # scripts in which joiners are spelling

_KEPT = (
    rf"(?<={_EMOJI})\u200d(?={_EMOJI})"
    rf"|(?<={_JOINED_SCRIPTS})[\u200c\u200d]"
    r"|(?<=[#*0-9\u00a9-\ufdff\uff00-\U0001faff])[\ufe00-\ufe0f](?![\ufe00-\ufe0f])"
    r"|(?<=[\u3400-\u9fff])[\U000e0100-\U000e01ef](?![\U000e0100-\U000e01ef])"
)
_HIDDEN = (
    r"[\x00-\x08\x0b\x0e-\x1f\x7f-\x84\x86-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f"
    r"\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb"
    r"\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
_CLEANING = re.compile(f"({_KEPT})|{_HIDDEN}")
_MAYBE_HIDDEN = re.compile(_HIDDEN)
_LINE_ENDS = re.compile(r"\r\n|\r")
_INLINE_BREAKS = re.compile("[\x0c\x85\u2028\u2029]")  # `str.splitlines` breaks here, editors don't


@dataclass(frozen=True, slots=True)
class Decoded:
    """A file as text: newline line ends, nothing invisible, the same lines as an editor shows.

    Attributes:
        hidden_lines: Lines, from 1, that characters nobody sees were taken out of.
        warnings: What was guessed or lost.
    """

    text: str
    encoding: str = "utf-8"
    hidden_lines: tuple[int, ...] = ()
    warnings: tuple[str, ...] = ()


def decode(data: bytes, *, max_bytes: int = MAX_FILE_BYTES) -> Decoded:
    """Read the bytes of a rule file.

    Raises:
        RuleFileError: It is larger than `max_bytes`, or is not text.
    """
    if len(data) > max_bytes:
        raise RuleFileError(f"larger than {max_bytes // 1024:,} KiB; split it into several files")
    text, encoding, warnings = _to_text(data)
    text = _LINE_ENDS.sub("\n", text)
    nuls = text.count("\x00")
    if nuls:
        _refuse_binary(text)
        warnings = (*warnings, f"{nuls} NUL byte{'s' * (nuls > 1)} left out")
    hidden = _hidden_lines(text)
    return Decoded(clean(text), encoding, hidden, warnings)


def clean(text: str) -> str:
    """Take out characters that nobody sees; joiners inside emoji, and in scripts that spell with them, stay.

    Half of a surrogate pair, which JSON can carry and nothing can store, becomes U+FFFD.
    """
    text = _LONE_SURROGATE.sub("\ufffd", text)
    if not _MAYBE_HIDDEN.search(text):
        return _INLINE_BREAKS.sub(" ", text)
    return _INLINE_BREAKS.sub(" ", _CLEANING.sub(lambda found: found[1] or "", text))


def _hidden_lines(text: str) -> tuple[int, ...]:
    if not _MAYBE_HIDDEN.search(text):
        return ()
    lines = text.split("\n")
    return tuple(number for number, line in enumerate(lines, 1) if _CLEANING.sub(lambda m: m[1] or "", line) != line)


def _to_text(data: bytes) -> tuple[str, str, tuple[str, ...]]:
    for mark, encoding in _BOMS:
        if data.startswith(mark):
            return _decode_marked(data[len(mark) :], encoding)
    wide = _utf16_without_mark(data)
    if wide:
        return data.decode(wide), wide, (f"read as {wide.upper()} (it has no byte order mark)",)
    try:
        return data.decode("utf-8"), "utf-8", ()
    except UnicodeDecodeError:
        return _decode_legacy(data)


def _decode_marked(data: bytes, encoding: str) -> tuple[str, str, tuple[str, ...]]:
    try:
        return data.decode(encoding), encoding, ()
    except UnicodeDecodeError:
        return data.decode(encoding, "replace"), encoding, (f"damaged {encoding.upper()}: some characters are lost",)


def _utf16_without_mark(data: bytes) -> str:
    """The UTF-16 byte order of `data`, told by where its NUL bytes lie, or empty."""
    if len(data) % 2 or len(data) < 8:
        return ""
    high_first, low_first = data[0::2].count(0), data[1::2].count(0)
    if high_first + low_first < len(data) * 0.04 or min(high_first, low_first):
        return ""
    encoding = "utf-16-be" if high_first else "utf-16-le"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        return ""
    return encoding if "\n" in text or " " in text else ""


def _decode_legacy(data: bytes) -> tuple[str, str, tuple[str, ...]]:
    """Bytes that are not UTF-8: damaged UTF-8, Chinese GB18030, Western cp1252, or a loss that is reported."""
    as_utf8 = data.decode("utf-8", "replace")
    lost = as_utf8.count("\ufffd")
    whole = len(re.findall(r"[^\x00-\x7f\ufffd]", as_utf8))
    if whole > lost:
        line = as_utf8[: as_utf8.index("\ufffd")].count("\n") + 1
        return as_utf8, "utf-8", (f"damaged UTF-8: {lost} unreadable character(s) replaced, the first in line {line}",)
    for encoding, plausible in (("gb18030", _looks_chinese), ("cp1252", _looks_western)):
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        if plausible(text):
            return text, encoding, (f"not UTF-8; read as {encoding.upper()}. Save it as UTF-8 to be sure",)
    return as_utf8, "utf-8", (f"unknown encoding: {lost} character(s) replaced. Save it as UTF-8",)


def _looks_chinese(text: str) -> bool:
    foreign = re.findall(r"[^\x00-\x7f]", text)
    usual = re.findall(r"[\u4e00-\u9fa5\u3000-\u303f\uff00-\uff5e\u2010-\u2027]", text)
    return len(usual) >= 2 and len(usual) >= 0.9 * len(foreign)


def _looks_western(text: str) -> bool:
    foreign = len(re.findall(r"[^\x00-\x7f]", text))
    controls = len(re.findall(r"[\x00-\x08\x0e-\x1f]", text))
    return controls == 0 and foreign <= 0.3 * len(text)


def _refuse_binary(text: str) -> None:
    """A stray NUL in a text is dropped; a file full of control characters is no text."""
    controls = len(re.findall(r"[\x00-\x08\x0e-\x1f]", text))
    if controls > max(3, len(text) // 200):
        raise RuleFileError("not a text file (it holds binary data)")

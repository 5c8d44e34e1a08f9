from __future__ import annotations

import pytest

from symmetra_mcp.errors import RuleFileError
from symmetra_mcp.ingest.decode import MAX_FILE_BYTES, clean, decode

TEXT = "# 规则\n\n- 必须使用类型。\n- Prefer small functions \u2013 always.\n"


@pytest.mark.parametrize(
    ("data", "encoding"),
    [
        pytest.param(TEXT.encode(), "utf-8", id="utf-8"),
        pytest.param(b"\xef\xbb\xbf" + TEXT.encode(), "utf-8", id="utf-8 with mark"),
        pytest.param(b"\xff\xfe" + TEXT.encode("utf-16-le"), "utf-16-le", id="utf-16-le with mark"),
        pytest.param(b"\xfe\xff" + TEXT.encode("utf-16-be"), "utf-16-be", id="utf-16-be with mark"),
        pytest.param(TEXT.encode("utf-16-le"), "utf-16-le", id="utf-16-le without mark"),
        pytest.param(TEXT.encode("utf-16-be"), "utf-16-be", id="utf-16-be without mark"),
        pytest.param(TEXT.encode("utf-32"), "utf-32-le", id="utf-32"),
    ],
)
def test_every_unicode_encoding_gives_the_same_text(data: bytes, encoding: str) -> None:
    decoded = decode(data)
    assert (decoded.text, decoded.encoding, decoded.hidden_lines) == (TEXT, encoding, ())


@pytest.mark.parametrize("end", ["\r\n", "\r", "\n"], ids=["crlf", "cr", "lf"])
def test_line_ends_become_newlines(end: str) -> None:
    assert decode(f"a{end}b{end}{end}c".encode()).text == "a\nb\n\nc"


def test_mixed_line_ends_keep_the_number_of_lines() -> None:
    assert decode(b"a\r\nb\rc\nd").text.split("\n") == ["a", "b", "c", "d"]


def test_chinese_legacy_encoding_is_read_and_reported() -> None:
    decoded = decode(("- 必须使用类型注解。\n" * 3).encode("gb18030"))
    assert decoded.text == "- 必须使用类型注解。\n" * 3
    assert decoded.encoding == "gb18030"
    assert decoded.warnings


def test_western_legacy_encoding_is_read_and_reported() -> None:
    decoded = decode("Préférez les fonctions pures \u2013 toujours.\n".encode("cp1252"))
    assert decoded.text == "Préférez les fonctions pures \u2013 toujours.\n"
    assert decoded.encoding == "cp1252"
    assert decoded.warnings


def test_utf8_cut_in_mid_character_loses_one_character_and_says_so() -> None:
    decoded = decode("必须使用类型".encode()[:-1])
    assert decoded.text == "必须使用类\ufffd"
    assert "line 1" in decoded.warnings[0]


def test_stray_nul_is_dropped_with_a_warning() -> None:
    decoded = decode(b"Always use\x00 types in public functions.")
    assert decoded.text == "Always use types in public functions."
    assert decoded.warnings == ("1 NUL byte left out",)


def test_binary_file_is_refused() -> None:
    with pytest.raises(RuleFileError, match="not a text file"):
        decode(bytes(range(256)) * 8)


def test_file_above_the_cap_is_refused() -> None:
    with pytest.raises(RuleFileError, match="larger than 1,024 KiB"):
        decode(b"a" * (MAX_FILE_BYTES + 1))


@pytest.mark.parametrize(
    "hidden",
    [
        "\u200b",
        "\u202e",
        "\u2066",
        "\ufeff",
        "\U000e0041\U000e0042",
        "\u200d",
        "\x1b",
        "\ufe01\ufe02",
        "\u00ad",
        "\u2060",
    ],
    ids=[
        "zero-width",
        "bidi",
        "isolate",
        "mark",
        "tags",
        "joiner",
        "escape",
        "selectors",
        "soft-hyphen",
        "word-joiner",
    ],
)
def test_hidden_characters_are_stripped_and_their_line_is_kept(hidden: str) -> None:
    decoded = decode(f"first\nuse{hidden} types\n".encode())
    assert (decoded.text, decoded.hidden_lines) == ("first\nuse types\n", (2,))


@pytest.mark.parametrize(
    "text",
    ["👩\u200d💻 writes", "❤\ufe0f care", "1\ufe0f\u20e3 first", "می\u200cخواهم", "क्\u200dष"],  # noqa: RUF001
    ids=["joined-emoji", "emoji-selector", "keycap", "persian", "devanagari"],
)
def test_joiners_that_are_spelling_stay(text: str) -> None:
    assert clean(text) == text

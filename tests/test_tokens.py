from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from symmetra_mcp.tokens import cut_to_tokens, estimate_tokens


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        pytest.param("", 0, id="empty"),
        pytest.param("a", 1, id="rounded-up"),
        pytest.param("four", 1, id="four-bytes"),
        pytest.param("fives", 2, id="five-bytes"),
        pytest.param("数据", 2, id="three-bytes-a-character"),
        pytest.param("\ud83d", 1, id="half-a-surrogate-pair"),
    ],
)
def test_tokens_are_estimated_by_bytes(text: str, tokens: int) -> None:
    assert estimate_tokens(text) == tokens


@pytest.mark.parametrize(
    ("text", "tokens", "expected"),
    [
        pytest.param("short enough", 3, "short enough", id="fits"),
        pytest.param("One two three four. Five six seven.", 6, "One two three four. …", id="at-a-sentence"),
        pytest.param("One two three\nfour five six seven", 5, "One two three …", id="at-a-line"),
        pytest.param(
            "A. Then a long sentence without end", 6, "A. Then a long sentence …", id="early-end-is-too-early"
        ),
        pytest.param("x" * 100, 5, "x" * 20 + " …", id="no-end"),
        pytest.param("数据库" * 10, 4, "数据库数据 …", id="no-half-character"),
    ],
)
def test_a_text_is_cut_where_it_reads_well(text: str, tokens: int, expected: str) -> None:
    assert cut_to_tokens(text, tokens) == expected


@given(st.text(max_size=300), st.integers(min_value=1, max_value=40))
def test_a_cut_text_fits_and_is_a_beginning(text: str, tokens: int) -> None:
    cut = cut_to_tokens(text, tokens)
    assert estimate_tokens(cut) <= tokens + 1
    if cut != text:
        assert cut.endswith(" …")
        assert text.startswith(cut.removesuffix(" …"))

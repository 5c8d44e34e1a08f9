"""JSON with comments, of which one member is changed and every other byte kept."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from symmetra_mcp.jsonc import JsoncError, parsed, with_member, without_member

PATH = ("mcpServers", "symmetra")
ENTRY = {"command": "/bin/symmetra-mcp", "args": ["serve"]}
COMMENTED = """// mine
{
    // servers, by hand
    "mcpServers": {
        "other": { "command": "npx", "args": ["-y", "x"] }, // keep, "this": {
        /* "off": {}, */
    },
    "theme": "dark", // a tail
}
"""


def test_an_entry_is_added_and_every_other_line_stays() -> None:
    changed = with_member(COMMENTED, PATH, ENTRY)
    assert [line for line in COMMENTED.splitlines() if line not in changed.splitlines()] == []
    assert parsed(changed) == {
        **parsed(COMMENTED),
        "mcpServers": {**parsed(COMMENTED)["mcpServers"], "symmetra": ENTRY},
    }
    assert '\n        "symmetra": {\n            "command": "/bin/symmetra-mcp",\n' in changed


def test_taking_it_out_again_gives_the_former_file() -> None:
    assert without_member(with_member(COMMENTED, PATH, ENTRY), PATH) == COMMENTED
    plain = json.dumps({"mcpServers": {"other": {"command": "x"}}, "a": 1}, indent=2) + "\n"
    assert without_member(with_member(plain, PATH, ENTRY), PATH) == plain


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "{}",
        "{ }\n",
        "// only this\n",
        "\ufeff{}",
        '{"mcpServers": {}}',
        '{"mcpServers": {},}',
        "{\r\n}\r\n",
        '{"a":1}',
        '{"a": [1, 2,], /* x */ "b": "}//{"}',
        '{"mcpServers": {"symmetra": 3, "b": {}}}',
        '{"a":1 // c\n}',
    ],
)
def test_any_form_takes_it(text: str) -> None:
    changed = with_member(text, PATH, ENTRY)
    before = parsed(text)
    assert parsed(changed) == {**before, "mcpServers": {**before.get("mcpServers", {}), "symmetra": ENTRY}}
    assert "symmetra" not in parsed(without_member(changed, PATH))["mcpServers"]
    assert all(comment in changed for comment in ("// only this", "/* x */", "// c") if comment in text)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"a": }', "line 1"),
        ('{\n"a": 1\n"b": 2}', "line 3"),
        ("[1]", "no object"),
        ('{"mcpServers": 3}', "mcpServers is no object"),
        ('{"a": "unended', "line 1"),
        ("{" * 100_000, "nested|line 1"),
        ('{"a": 1} trailing', "line 1"),
        ("/* unended", "line 1"),
    ],
)
def test_what_is_no_such_file_is_refused(text: str, told: str) -> None:
    with pytest.raises(JsoncError, match=told):
        with_member(text, PATH, ENTRY)


_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=8)
    | st.sampled_from(["//", "/*", "*/", ",}", '"', "\\"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=12,
)
_blanks = st.sampled_from(["", " ", "\n", "\r\n\t", "/* } , */", "// {,\n", " /**/ "])


@st.composite
def _written(draw: Any, value: Any) -> str:
    """A value as somebody might write it, with comments and trailing commas."""
    if isinstance(value, dict):
        parts = [
            f"{draw(_blanks)}{json.dumps(key)}{draw(_blanks)}:{draw(_written(each))}" for key, each in value.items()
        ]
        comma = draw(st.sampled_from(["", ","])) if parts else ""
        text = "{" + ",".join(parts) + comma + draw(_blanks) + "}"
    elif isinstance(value, list):
        text = "[" + ",".join(draw(_written(each)) for each in value) + draw(_blanks) + "]"
    else:
        text = json.dumps(value)
    return f"{draw(_blanks)}{text}{draw(_blanks)}"


@given(
    st.data(),
    st.dictionaries(st.text(max_size=5), _values, max_size=4),
    st.none() | st.dictionaries(st.text(), _values),
)
def test_whatever_is_there_stays(data: st.DataObject, value: dict[str, Any], servers: dict[str, Any] | None) -> None:
    if servers is not None:
        value = {**value, "mcpServers": servers}
    elif not isinstance(value.get("mcpServers", {}), dict):
        return
    text = data.draw(_written(value))
    assert parsed(text) == value
    changed = with_member(text, PATH, ENTRY)
    there = value.get("mcpServers", {})
    assert parsed(changed) == {**value, "mcpServers": {**there, "symmetra": ENTRY}}
    without = without_member(changed, PATH)
    assert parsed(without) == {**value, "mcpServers": {key: each for key, each in there.items() if key != "symmetra"}}
    for comment in ("/* } , */", "// {,"):
        assert changed.count(comment) >= text.count(comment)

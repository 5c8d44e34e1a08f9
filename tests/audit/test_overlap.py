from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from symmetra_mcp.audit.overlap import patterns_may_meet, scopes_may_meet
from symmetra_mcp.scopes import matching_glob
from symmetra_mcp.types import Scope

_NAMES = st.sampled_from(["a", "b", "ab", "a.ts", "b.ts", "a.test.ts", "a.py", "Dockerfile"])
_PARTS = st.sampled_from(["*", "**", "a", "b", "*.ts", "*.{ts,py}", "{a,b}", "a*", "?", "*.test.ts", "[ab]", "a.ts"])
_PATHS = st.lists(_NAMES, min_size=1, max_size=3).map("/".join)
_PATTERNS = st.lists(_PARTS, min_size=1, max_size=3).map("/".join)


@given(_PATTERNS, _PATTERNS, _PATHS)
@example("**", "a.ts", "a.ts")
@example("/a", "**/a", "a")
def test_patterns_that_match_one_path_are_never_called_apart(one: str, other: str, path: str) -> None:
    scopes = (Scope("files", (one,)),), (Scope("files", (other,)),)
    if all(matching_glob(scope, path) is not None for scope in scopes):
        assert scopes_may_meet(*scopes)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("**/*.py", "**/*.{ts,tsx}"),
        ("web/**", "api/**"),
        ("src/web/**/*.ts", "src/api/*.ts"),
        ("**/Dockerfile", "**/*.py"),
        ("Makefile", "**/*.py"),
        ("src/a.ts", "src/b.ts"),
        ("src/a", "src/a/b.ts"),
    ],
)
def test_patterns_of_other_folders_or_endings_are_apart(one: str, other: str) -> None:
    assert not patterns_may_meet(one, other)
    assert not patterns_may_meet(other, one)


def test_a_rule_for_every_file_meets_all_but_what_excludes_is_not_counted() -> None:
    everywhere, python = (Scope(),), (Scope("files", ("**/*.py", "!web/**")),)
    assert scopes_may_meet(everywhere, python)
    assert scopes_may_meet((Scope("files", ("!**/*.md",)),), python)

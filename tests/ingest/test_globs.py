from __future__ import annotations

import pytest
from wcmatch import glob

from symmetra_mcp.ingest.globs import escape, folder_globs, normalize_globs, parse_globs


@pytest.mark.parametrize(
    ("value", "patterns"),
    [
        (None, ()),
        ("", ()),
        ("null", ()),
        (7, ()),
        ("*.py", ("*.py",)),
        ("*.py, *.ts ,", ("*.py", "*.ts")),
        ("**/*.{ts,tsx},src/**", ("**/*.{ts,tsx}", "src/**")),
        ("*.ts *.tsx", ("*.ts", "*.tsx")),
        ("My Docs/*.md", ("My Docs/*.md",)),
        ('["a.py", "b.py"]', ("a.py", "b.py")),
        ("[*.py, *.{ts,tsx}]", ("*.py", "*.{ts,tsx}")),
        (["*.py", "a, b/*.c"], ("*.py", "a", "b/*.c")),
        ("{unclosed,*.py", ("{unclosed", "*.py")),
    ],
)
def test_patterns_are_told_apart(value: object, patterns: tuple[str, ...]) -> None:
    assert parse_globs(value) == patterns


@pytest.mark.parametrize(
    ("pattern", "normal"),
    [
        ("*.py", ("**/*.py",)),
        ("*.{ts,tsx}", ("**/*.{ts,tsx}",)),
        ("./src/*.py", ("src/*.py",)),
        ("/setup.py", ("/setup.py",)),
        ("src/", ("src/**",)),
        ("src/api", ("src/api", "src/api/**")),
        ("src\\**\\*.cs", ("src/**/*.cs",)),
        ("**", ()),
        ("**/*", ()),
        ("*", ()),
        ("./**", ()),
        ("!tests/**", ("**", "!tests/**")),
    ],
)
def test_patterns_become_posix_globs_relative_to_the_root(pattern: str, normal: tuple[str, ...]) -> None:
    assert normalize_globs((pattern,)) == normal


def test_match_all_swallows_the_others() -> None:
    assert normalize_globs(("**/*", "*.py")) == ()


def test_base_folder_is_put_before_patterns_even_when_they_match_all() -> None:
    assert normalize_globs(("*.py", "!x/*"), "pkg") == ("pkg/**/*.py", "!pkg/x/*")
    assert normalize_globs((), "pkg") == ("pkg/**",)


@pytest.mark.parametrize("folder", ["app/[id]", "a{b,c}", "(group)/@slot", "what?", "a*b", "!keep"])
def test_folder_names_that_look_like_globs_are_matched_literally(folder: str) -> None:
    flags = glob.GLOBSTAR | glob.BRACE | glob.NEGATE
    assert glob.globmatch(f"{folder}/x/y.py", folder_globs(folder), flags=flags)
    assert not glob.globmatch("other/x/y.py", folder_globs(folder), flags=flags)
    assert escape("plain/folder") == "plain/folder"

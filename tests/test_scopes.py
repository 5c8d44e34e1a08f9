from __future__ import annotations

import pytest

from symmetra_mcp.scopes import matching_glob, relative_path, tech_stacks_of
from symmetra_mcp.types import Scope


def files(*globs: str) -> tuple[Scope, ...]:
    return (Scope("files", globs),)


@pytest.mark.parametrize(
    ("glob", "path", "applies"),
    [
        ("**/*.py", "a.py", True),
        ("**/*.py", "src/deep/a.py", True),
        ("**/*.py", "src/a.pyi", False),
        ("*.py", "a.py", True),
        ("*.py", "src/deep/a.py", True),
        ("*.py", "src/a.py/b.txt", False),
        ("Makefile", "build/Makefile", True),
        ("src/*.py", "src/a.py", True),
        ("src/*.py", "src/deep/a.py", False),
        ("src/*.py", "lib/src/a.py", False),
        ("src/**", "src/a", True),
        ("src/**", "src/deep/er/a.go", True),
        ("src/**", "source/a.go", False),
        ("src/**/test_*.py", "src/test_a.py", True),
        ("src/**/test_*.py", "src/x/y/test_a.py", True),
        ("**", "anything/at/all", True),
        ("**/*", "a", True),
        ("*.{ts,tsx}", "web/a.tsx", True),
        ("*.{ts,tsx}", "web/a.js", False),
        ("{src,lib}/**/*.{c,h}", "lib/x/y.h", True),
        ("{src,lib}/**/*.{c,h}", "test/y.h", False),
        ("src/{a,b/{c,d}}/*.py", "src/b/d/x.py", True),
        ("file?.md", "docs/file1.md", True),
        ("file?.md", "docs/file10.md", False),
        ("[ab]*.md", "b1.md", True),
        ("[!ab]*.md", "b1.md", False),
        ("*", ".env", True),
        ("**/*.yml", ".github/workflows/ci.yml", True),
        (".github/**", ".github/workflows/ci.yml", True),
        ("*.PY", "a.py", False),
        ("src/app/[[]id]/**", "src/app/[id]/page.tsx", True),
        ("src/app/\\[id\\]/**", "src/app/[id]/page.tsx", True),
        ("größe/**", "größe/a.md", True),
        ("**/@(a|b).md", "docs/a.md", True),
        ("**/@(a|b).md", "docs/c.md", False),
    ],
)
def test_a_glob_names_files(glob: str, path: str, applies: bool) -> None:
    assert matching_glob(files(glob), path) == (glob if applies else None)


@pytest.mark.parametrize(
    ("globs", "path", "expected"),
    [
        pytest.param(("*.py", "!test_*.py"), "src/a.py", "*.py", id="not-excluded"),
        pytest.param(("*.py", "!test_*.py"), "src/test_a.py", None, id="excluded"),
        pytest.param(("!test_*.py", "*.py"), "src/test_a.py", None, id="excluded-whatever-the-order"),
        pytest.param(("**/*.ts", "!web/**", "web/keep.ts"), "web/keep.ts", None, id="exclusion-is-final"),
        pytest.param(("!web/**",), "src/a.ts", "!web/**", id="only-exclusions-pass"),
        pytest.param(("!web/**",), "web/a.ts", None, id="only-exclusions-exclude"),
        pytest.param(("*.go", "*.py"), "a.py", "*.py", id="second-glob"),
        pytest.param(("src/**", "*.py"), "src/a.py", "src/**", id="first-of-two"),
        pytest.param(("!*.{md,txt}", "docs/**"), "docs/a.txt", None, id="exclusion-with-braces"),
    ],
)
def test_exclusions_and_several_globs(globs: tuple[str, ...], path: str, expected: str | None) -> None:
    assert matching_glob(files(*globs), path) == expected


@pytest.mark.parametrize(
    ("scopes", "path", "expected"),
    [
        pytest.param((Scope(),), "a.py", "", id="everywhere"),
        pytest.param((Scope("on_request"),), "a.py", "", id="on-request"),
        pytest.param((Scope("manual", ("*.go",)),), "a.py", None, id="globs-limit-every-mode"),
        pytest.param((Scope("files"),), "a.py", "", id="files-without-globs"),
        pytest.param((), "a.py", None, id="nowhere"),
        pytest.param((*files("*.go"), *files("*.py")), "a.py", "*.py", id="any-of-two"),
        pytest.param((*files("*.go"), *files("*.rs")), "a.py", None, id="none-of-two"),
        pytest.param((*files("*.go"), Scope()), "a.py", "", id="one-unlimited"),
        pytest.param((Scope(), *files("*.py")), "a.py", "*.py", id="the-glob-is-told-first"),
        pytest.param((*files("!a.py"), *files("*.py")), "a.py", "*.py", id="exclusion-binds-its-own-scope"),
    ],
)
def test_a_rule_applies_where_any_of_its_scopes_does(
    scopes: tuple[Scope, ...], path: str, expected: str | None
) -> None:
    assert matching_glob(scopes, path) == expected


UNREADABLE = "{1..100000}{1..100000}.py"


def test_a_glob_that_cannot_be_read_keeps_its_rule() -> None:
    assert matching_glob(files(UNREADABLE), "a.ts") == UNREADABLE
    assert matching_glob(files("*.py", UNREADABLE), "a.py") == "*.py"


def test_an_exclusion_that_cannot_be_read_excludes_nothing() -> None:
    assert matching_glob(files("*.py", f"!{UNREADABLE}"), "a.py") == "*.py"
    assert matching_glob(files("*.py", f"!{UNREADABLE}"), "a.ts") is None


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "glob",
    [
        "*a*a*a*a*a*a*a*a*b",
        "**/" * 30 + "b",
        "{a,b}" * 20,
        "[",
        "{",
        "!",
        "",
        "\\",
        "(?P<x",
        "a{,b",
        "@(" * 20,
        "***/**",
    ],
)
def test_no_glob_breaks_or_delays_a_search(glob: str) -> None:
    path = "a" * 60 + "/" + "/".join("a" * 20)
    assert matching_glob(files(glob), path) in (None, glob)


@pytest.mark.parametrize(
    ("path", "root", "expected"),
    [
        pytest.param("src/a.py", "", "src/a.py", id="relative"),
        pytest.param("./src//a.py", "", "src/a.py", id="dots-and-slashes"),
        pytest.param("src/../lib/a.py", "", "lib/a.py", id="parent"),
        pytest.param("../../a.py", "", "a.py", id="above-the-root"),
        pytest.param("/home/me/shop/src/a.py", "/home/me/shop", "src/a.py", id="absolute"),
        pytest.param("/home/me/shop/src/a.py", "/home/me/shop/", "src/a.py", id="root-with-slash"),
        pytest.param("/home/me/shop2/a.py", "/home/me/shop", "home/me/shop2/a.py", id="root-is-no-prefix-of-names"),
        pytest.param("/elsewhere/a.py", "/home/me/shop", "elsewhere/a.py", id="outside"),
        pytest.param("src/a.py", "/home/me/shop", "src/a.py", id="relative-with-root"),
        pytest.param("/a.py", "/", "a.py", id="disk-as-root"),
        pytest.param("src\\deep\\a.py", "", "src/deep/a.py", id="windows-relative"),
        pytest.param("C:\\shop\\src\\a.py", "C:\\shop", "src/a.py", id="windows-absolute"),
        pytest.param("C:/shop/src/a.py", "C:\\shop\\", "src/a.py", id="windows-mixed"),
        pytest.param("\\\\server\\share\\a.py", "\\\\server\\share", "a.py", id="windows-network"),
        pytest.param("..\\a.py", "", "a.py", id="windows-parent"),
        pytest.param("file:///home/me/my%20shop/a%25.py", "/home/me/my shop", "a%.py", id="address"),
        pytest.param("FILE://localhost/shop/a.py#L10", "/shop", "a.py", id="address-of-this-machine"),
        pytest.param("file:/shop/a.py?x", "/shop", "a.py", id="address-with-one-slash"),
        pytest.param("file:///C:/My%20Shop/src/a.py", "C:\\My Shop", "src/a.py", id="windows-address"),
        pytest.param("file:///c%3A/My%20Shop/src/a.py", "C:\\My Shop", "src/a.py", id="windows-address-of-an-editor"),
        pytest.param("file://C:/shop/a.py", "C:\\shop", "a.py", id="windows-address-with-two-slashes"),
        pytest.param("file://server/share/a.py", "\\\\server\\share", "a.py", id="windows-network-address"),
        pytest.param("src/file:/a.py", "", "src/file:/a.py", id="no-address"),
        pytest.param("my%20shop/a.py", "", "my%20shop/a.py", id="percent-in-a-path"),
        pytest.param(".env", "", ".env", id="dotfile"),
        pytest.param("dir with blanks/ä.md", "", "dir with blanks/ä.md", id="blanks"),
        pytest.param("", "", "", id="empty"),
    ],
)
def test_a_path_is_seen_from_the_root(path: str, root: str, expected: str) -> None:
    assert relative_path(path, root) == expected


@pytest.mark.parametrize(
    ("path", "stacks"),
    [
        ("src/a.py", ("python",)),
        ("src/A.PY", ("python",)),
        ("web\\App.tsx", ("typescript", "react")),
        ("include/a.h", ("c", "cpp")),
        ("Dockerfile", ("docker",)),
        ("deploy/Dockerfile.prod", ("docker",)),
        ("Cargo.toml", ("rust",)),
        ("pyproject.toml", ("python",)),
        ("other.toml", ()),
        ("README.md", ()),
        (".py", ()),
        ("py", ()),
        ("", ()),
        ("archive.tar.gz", ()),
        ("a.test.ts", ("typescript",)),
    ],
)
def test_a_files_name_tells_its_tech_stacks(path: str, stacks: tuple[str, ...]) -> None:
    assert tech_stacks_of(path) == stacks


def test_a_leading_slash_keeps_a_name_at_the_root() -> None:
    assert matching_glob(files("/setup.py"), "setup.py") == "/setup.py"
    assert matching_glob(files("/setup.py"), "pkg/setup.py") is None

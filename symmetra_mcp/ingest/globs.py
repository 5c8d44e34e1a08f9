"""File patterns as rule files write them, to POSIX globs relative to the project's root."""

from __future__ import annotations

import re

_MATCH_ALL = frozenset({"", ".", "*", "**", "**/*", "**/**", "**/**/*", "**/*.*", "*.*", "*/**", "all"})
_SPECIAL = re.compile(r"[\[\]*?{}!]")


def parse_globs(value: object) -> tuple[str, ...]:
    """Patterns of a value: a string, a comma list whose braces stay whole, a YAML list, or JSON-looking text."""
    if value is None:
        return ()
    if isinstance(value, (list, tuple)):
        return tuple(dict.fromkeys(pattern for item in value for pattern in parse_globs(item)))
    if not isinstance(value, str):
        return ()
    text = value.strip()
    if text.startswith("[") and text.endswith("]") and ("," in text or '"' in text or "'" in text or "/" in text):
        text = text[1:-1]
    parts = (_unquote(part) for part in _split_list(text))
    return tuple(dict.fromkeys(part for part in parts if part and part.lower() not in ("null", "~", "none")))


def normalize_globs(patterns: tuple[str, ...], base: str = "") -> tuple[str, ...]:
    """Patterns relative to `base`, made relative to the root; empty when they match every file below the root.

    A pattern without a slash names files at any depth, as in `.gitignore`; a leading `/` or `./` anchors it.
    """
    kept = [normal for pattern in patterns for normal in _normalize(pattern)]
    positive = [pattern for pattern in kept if not pattern.startswith("!")]
    negative = [pattern for pattern in kept if pattern.startswith("!")]
    if any(pattern == "**" for pattern in positive) or not positive:
        positive = ["**"] if negative or base else []
    below = escape(base) + "/" if base else ""
    placed = [_placed(below, pattern) for pattern in positive] + [f"!{_placed(below, p[1:])}" for p in negative]
    return tuple(dict.fromkeys(placed))


def _placed(below: str, pattern: str) -> str:
    """A pattern below a folder; at the root, a leading `/` keeps a name without slashes from meaning any depth."""
    return below + pattern.lstrip("/") if below else pattern


def folder_globs(folder: str) -> tuple[str, ...]:
    """The files below a folder, or no limit for the root."""
    return (f"{escape(folder)}/**",) if folder else ()


def escape(path: str) -> str:
    """A literal path as a glob: folders named `[id]` or `{a}` exist."""
    return _SPECIAL.sub(lambda found: f"[{found[0]}]" if found[0] in "*?" else f"\\{found[0]}", path)


def _normalize(pattern: str) -> list[str]:
    text = pattern.strip().replace("\\", "/")
    mark = "!" if text.startswith("!") else ""
    text = text[len(mark) :]
    anchored = text.startswith(("/", "./"))
    text = re.sub(r"/{2,}", "/", re.sub(r"^(?:\.?/)+", "", text))
    if text.lower() in _MATCH_ALL:
        return [f"{mark}**"]
    if text.endswith("/"):
        return [f"{mark}{text}**"]
    if "/" not in text:
        return [f"{mark}/{text}" if anchored else f"{mark}**/{text}"]
    last = text.rsplit("/", 1)[-1]
    if not re.search(r"[*.?]", last) and "/" in text:
        return [f"{mark}{text}", f"{mark}{text}/**"]  # `src/api` may be a folder
    return [f"{mark}{text}"]


def _split_list(text: str) -> list[str]:
    """Parts between commas and line ends that lie outside braces and brackets."""
    parts, depth, start = [], 0, 0
    for index, char in enumerate(text):
        if char in "{[(":
            depth += 1
        elif char in "}])":
            depth = max(0, depth - 1)
        elif char in ",;\n" and depth == 0:
            parts.append(text[start:index])
            start = index + 1
    parts.append(text[start:])
    if depth:  # a brace that never closes must not glue a list together
        parts = re.split(r"[,;\n]", text)
    return [piece for part in parts for piece in _split_blanks(part)]


def _split_blanks(part: str) -> list[str]:
    """`*.ts *.tsx` is two patterns; `My Docs/*.md` is one."""
    words = part.split()
    if len(words) > 1 and "{" not in part and all(re.search(r"[*?/]|\.\w", word) for word in words):
        return words
    return [part]


def _unquote(part: str) -> str:
    text = part.strip()
    if text.startswith("- "):
        text = text[2:].strip()
    return text.strip("\"'`").strip()

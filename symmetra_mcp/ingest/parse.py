"""One rule file, whatever its dialect, to the rules it states. Nothing here touches the disk."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from symmetra_mcp.errors import RuleFileError
from symmetra_mcp.ingest import native
from symmetra_mcp.ingest.blocks import drop_comments
from symmetra_mcp.ingest.classify import (
    category_of,
    stack_of_globs,
    stack_of_name,
    stack_of_prose,
    title_of,
)
from symmetra_mcp.ingest.decode import MAX_DATA_FILE_BYTES, MAX_FILE_BYTES, Decoded, decode
from symmetra_mcp.ingest.dialects import Dialect, base_of, scope_of
from symmetra_mcp.ingest.flags import find_flags
from symmetra_mcp.ingest.frontmatter import Frontmatter, read_frontmatter
from symmetra_mcp.ingest.markup import json_as_markdown, looks_like_json, looks_like_xml, split_xml
from symmetra_mcp.ingest.model import ParsedFile, Statement
from symmetra_mcp.ingest.split import Piece, sized, split
from symmetra_mcp.ingest.wording import is_persona, priority_of
from symmetra_mcp.types import Scope, Source

IMPORT_LINE = re.compile(r"^\s*(?:[-*]\s+)?@([^\s@`]{1,300})\s*$")
"""A line that pulls another file in: `@AGENTS.md`."""


@dataclass(frozen=True, slots=True)
class _File:
    """What every rule of a file has in common."""

    path: str
    dialect: Dialect
    scope: Scope
    stacks: tuple[str, ...]

    @property
    def stem(self) -> str:
        """The file's name without its endings, or its folder's where the name says nothing."""
        name = self.path.rsplit("/", 1)[-1]
        return re.sub(r"(?:\.instructions)?\.\w+$", "", name) if not name.startswith(".") else name


def max_bytes(path: str) -> int:
    """The largest file of its kind that is read."""
    return MAX_DATA_FILE_BYTES if path.endswith(native.DATA_SUFFIXES) else MAX_FILE_BYTES


def parse_file(path: str, dialect: Dialect, data: bytes, *, base: str | None = None) -> ParsedFile:
    """Read the bytes of a rule file.

    Args:
        path: POSIX path relative to the project's root.
        dialect: Which kind of rule file it is.
        data: Its bytes.
        base: The folder that its rules are about, where that isn't told by `path`.
    """
    try:
        decoded = decode(data, max_bytes=max_bytes(path))
        flags = find_flags(path, decoded.text, decoded.hidden_lines)
        lines = decoded.text.split("\n")
        front = Frontmatter() if path.endswith(native.DATA_SUFFIXES) else read_frontmatter(lines)
        if native.is_native(path, front):
            return native.parse_native(path, decoded, flags)
    except RuleFileError as exc:
        return ParsedFile(path, dialect.name, problem=str(exc))
    about = _about(path, dialect, front, lines, base_of(path, dialect) if base is None else base)
    pieces = [piece for piece in read_pieces(lines, front.body_start) if piece.text.strip()]
    rules = [piece for piece in pieces if piece.is_rule]
    return ParsedFile(
        path,
        dialect.name,
        tuple(_statement(about, piece) for piece in rules),
        context=len(pieces) - len(rules),
        fragments=sum(piece.fragments for piece in rules),
        warnings=(*decoded.warnings, *front.warnings),
        flags=flags,
        note="" if rules else _why_nothing(decoded, front, lines),
    )


def read_pieces(lines: Sequence[str], body_start: int) -> list[Piece]:
    """The pieces of a body in Markdown, XML or JSON-looking text."""
    body = [*[""] * body_start, *lines[body_start:]]
    text = "\n".join(body)
    if looks_like_xml(text):
        return [part for piece in split_xml(text) for part in sized(piece)]
    if looks_like_json(text):
        return split(json_as_markdown(body), body_start)
    body = drop_comments(["" if IMPORT_LINE.match(line) else line for line in body])
    return split(body, body_start)


def _about(path: str, dialect: Dialect, front: Frontmatter, lines: list[str], base: str) -> _File:
    scope = scope_of(dialect, front, path, base)
    description = front.text("description") or _persona_of(lines[front.body_start :])
    patterns = [pattern for pattern in scope.globs if pattern != f"{base}/**"]
    about = _File(path, dialect, scope, ())
    named = stack_of_globs(patterns) + stack_of_name(about.stem) + stack_of_prose(description)
    return _File(path, dialect, scope, tuple(dict.fromkeys(named)))


def _persona_of(lines: list[str]) -> str:
    """`You are an expert in React and TypeScript` says what a file without frontmatter is about."""
    return next((line[:600] for line in lines[:15] if is_persona(line)), "")


def _statement(about: _File, piece: Piece) -> Statement:
    category = category_of(piece.heading_path, about.stem)
    stacks = tuple(dict.fromkeys(about.stacks + stack_of_prose(" / ".join(piece.heading_path))))
    source = Source(about.path, piece.start, piece.end, about.dialect.name, piece.heading_path, about.scope)
    return Statement(
        title=title_of(piece.text, piece.heading_path, suggested=piece.title),
        guidance=piece.text,
        sources=(source,),
        category=category,
        priority=priority_of(piece.text, category),
        tech_stacks=stacks,
    )


def _why_nothing(decoded: Decoded, front: Frontmatter, lines: list[str]) -> str:
    body = [line for line in lines[front.body_start :] if line.strip()]
    if not decoded.text.strip():
        return "empty"
    if not body:
        return "nothing below the frontmatter"
    if all(IMPORT_LINE.match(line) for line in body):
        return "only imports other files"
    if len(body) == 1 and re.fullmatch(r"[\w@./+-]+\.\w{1,8}", body[0].strip()):
        return f"only names {body[0].strip()}, which is not there"
    if sum(len(line) for line in body) < 80:
        return "too short to state a rule"
    return "it describes (persona, overview, links, commands) and tells nothing to do or avoid"

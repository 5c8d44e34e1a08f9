"""What in a rule file a person should look at: text meant to override the assistant, and commands that do harm."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from symmetra_mcp.ingest.model import Flag, FlagKind

_EXCERPT_CHARS = 80
_MAX_FLAGS = 50
"""A file: what holds more is dangerous as a whole, and a report should stay readable."""

_OVERRIDE = re.compile(
    r"\b(?:ignore|disregard|forget|override|bypass)\s+(?:(?:all|any|every|the|your|of|these|those|previous|prior|above|"
    r"earlier|preceding|other|existing|system|safety)\s+){1,5}(?:instructions?|rules?|prompts?|guidelines|context|messages?"
    r"|constraints|restrictions|guardrails)\b"
    r"|\byou are now\b|\bfrom now on,? you (?:are|will)\b|\b(?:new|updated) system prompt\b"
    r"|\b(?:reveal|print|repeat|show)\s+(?:me\s+)?(?:your|the)\s+system prompt\b"
    r"|\b(?:do not|don.t|never|must not|without)\s+(?:ever\s+)?(?:"
    r"(?:tell|inform)(?:ing)?\s+the\s+user"
    r"|(?:mention|reveal|disclos|show|explain|report)(?:e|ing)?\s+(?:any\s+of\s+)?(?:this|it|that|these|them)\s+"
    r"(?:\w+\s+){0,2}to\s+the\s+user)\b"
    r"|\b(?:hide|conceal|keep)\s+(?:this|it|that|these|them)\s+(?:\w+\s+){0,2}from\s+the\s+user\b"
    r"|<\|(?:im_start|im_end|system|user|assistant|endoftext)\|>|\[/?INST\]|<</?SYS>>"
    r"|忽略(?:之前|以上|所有)[^\n]{0,10}(?:指令|规则|提示)|これまでの(?:指示|命令)を無視",
    re.IGNORECASE,
)
_DANGEROUS = re.compile(
    r"\b(?:curl|wget|iwr)\b[^|\n]{0,200}\|\s*(?:sudo\s+)?(?:ba|z|da|k)?sh\b"
    r"|\b(?:ba|z)?sh\s+<\(\s*(?:curl|wget)\b|\beval\s+[\"']?\$\((?:curl|wget)\b"
    r"|--no-verify\b|--no-gpg-sign\b|\bHUSKY=0\b"
    r"|\brm\s+(?:-[a-z]+\s+){0,3}-(?:[a-z]*r[a-z]*f|[a-z]*f[a-z]*r)[a-z]*\b|\bRemove-Item\b[^\n]{0,80}-Recurse\b[^\n]{0,40}-Force\b"
    r"|\bsudo\s+\S|\bchmod\s+(?:-R\s+)?0?777\b"
    r"|\bgit\s+push\b[^\n]{0,60}(?:--force\b(?!-with-lease)|\s-f\b)|\bgit\s+reset\s+--hard\b|\bgit\s+clean\s+-[a-z]*f"
    r"|\bmkfs\.|\bdd\s+if=|:\(\)\s*\{|\bInvoke-Expression\b|\biex\s*\("
    r"|--dangerously-skip-permissions\b",
    re.IGNORECASE,
)
_TAG = re.compile(
    r"<(/?)(rules?|guidance|instructions?|context|documents?|system|assistant|user|human|tool_results?)\b[^>]*>", re.I
)
"""Tags by which assistants tell what they were given from who gave it."""
_OVERRIDE_WORDS = (
    *("ignore", "disregard", "forget", "override", "bypass", "you are now", "from now on", "system prompt"),
    *("the user", "<|", "inst]", "sys>>", "忽略", "無視"),
)
_DANGEROUS_WORDS = (
    *("curl", "wget", "iwr", "--no-", "husky", "rm ", "rm\t", "remove-item", "sudo", "chmod", "git ", "mkfs", "dd if"),
    *(":()", "invoke-expression", "iex", "--dangerously"),
)
_KINDS: tuple[tuple[FlagKind, re.Pattern[str], tuple[str, ...]], ...] = (
    ("override-wording", _OVERRIDE, _OVERRIDE_WORDS),
    ("dangerous-command", _DANGEROUS, _DANGEROUS_WORDS),
)
"""A kind, its pattern, and words of which each match holds at least one."""


def find_flags(path: str, text: str, hidden_lines: Sequence[int] = ()) -> tuple[Flag, ...]:
    """Flags of a cleaned text, in the order of its lines; at most one of a kind for each line."""
    found = [*_hidden(path, text, hidden_lines), *_wording(path, text), *_breakouts(path, text)]
    by_line = {(flag.line, flag.kind): flag for flag in reversed(found)}
    return tuple(by_line[place] for place in sorted(by_line)[:_MAX_FLAGS])


def _hidden(path: str, text: str, lines: Sequence[int]) -> Iterator[Flag]:
    if not lines:
        return
    shown = text.split("\n")
    for line in lines[:_MAX_FLAGS]:
        yield Flag(path, line, "hidden-characters", shown[line - 1].strip()[:_EXCERPT_CHARS])


def _wording(path: str, text: str) -> Iterator[Flag]:
    for kind, pattern, words in _KINDS:
        for number, line in _lines_with(text, words):
            match = pattern.search(line)
            if match:
                yield Flag(path, number, kind, _excerpt(line, match.start()))


def _breakouts(path: str, text: str) -> Iterator[Flag]:
    """Closing tags of what the text never opened: they would end the frame that an assistant reads it in."""
    opened: set[str] = set()
    for number, line in _lines_with(text, ("<",)):
        for tag in _TAG.finditer(line):
            closing, name = tag[1], tag[2].lower()
            if closing and name not in opened:
                yield Flag(path, number, "override-wording", _excerpt(line, tag.start()))
                break
            opened.add(name)


def _excerpt(line: str, start: int) -> str:
    return " ".join(line[max(0, start - 20) :][: _EXCERPT_CHARS * 2].split())[:_EXCERPT_CHARS]


def _lines_with(text: str, words: Sequence[str]) -> Iterator[tuple[int, str]]:
    """Lines, with their numbers, that hold one of `words`: the patterns are slow, and most lines hold none."""
    lowered = text.lower()
    present = [word for word in words if word in lowered]
    if present:
        lines = text.split("\n")
        for number, line in enumerate(lowered.split("\n")):
            if any(word in line for word in present):
                yield number + 1, lines[number]

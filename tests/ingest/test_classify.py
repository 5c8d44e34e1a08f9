from __future__ import annotations

import pytest

from symmetra_mcp.ingest.classify import (
    category_of,
    stack_of_globs,
    stack_of_name,
    stack_of_prose,
    title_of,
)
from symmetra_mcp.ingest.wording import commands, is_persona, priority_of


@pytest.mark.parametrize(
    ("headings", "stem", "category"),
    [
        (("Guide", "Testing"), "x", "testing"),
        (("Security", "Notes"), "x", "security"),
        (("Guide", "Naming Conventions"), "x", "style"),
        (("指南", "测试规范"), "x", "testing"),
        ((), "error-handling", "error-handling"),
        ((), "clean-code", "style"),
        ((), "AGENTS", "general"),
        (("Agents",), "AGENTS", "general"),
        ((), "CLAUDE", "general"),
        ((), "python", "general"),
        ((), "onboarding", "onboarding"),
        ((), "cursor-ai-react-typescript-shadcn-ui-cursorrules-p", "ux"),
        ((), "my-very-long-file-name-of-things", "general"),
    ],
)
def test_category_comes_from_headings_then_from_the_file(headings: tuple[str, ...], stem: str, category: str) -> None:
    assert category_of(headings, stem) == category


@pytest.mark.parametrize(
    ("globs", "stacks"),
    [
        (("**/*.py",), ("python",)),
        (("**/*.{ts,tsx}",), ("typescript", "react")),
        (("src/**/*.vue", "!**/*.py"), ("vue",)),
        (("**/Dockerfile",), ("docker",)),
        (("src/**",), ()),
        (("**/*.test.ts",), ("typescript",)),
    ],
)
def test_technologies_of_patterns(globs: tuple[str, ...], stacks: tuple[str, ...]) -> None:
    assert stack_of_globs(globs) == stacks


@pytest.mark.parametrize(
    ("stem", "stacks"),
    [
        ("react-native-expo-router", ("react-native", "react", "expo")),
        ("go", ("go",)),
        ("going-live", ()),
        ("python-fastapi-best-practices", ("python", "fastapi")),
        ("commit", ()),
    ],
)
def test_technologies_of_file_names(stem: str, stacks: tuple[str, ...]) -> None:
    assert set(stack_of_name(stem)) == set(stacks)


@pytest.mark.parametrize(
    ("text", "stacks"),
    [
        ("Go to the settings and react quickly; rest assured", ()),
        ("Go code and modules", ("go",)),
        ("Next.js App Router with TypeScript", ("nextjs", "react", "typescript")),
        ("C in words, java-like", ()),
        ("Use React, not react as a verb", ("react",)),
        ("A C++ and C# shop", ("cpp", "csharp")),
        ("unity of style at the helm", ()),
        ("tests in node.js", ("nodejs",)),
        ("the node.jsx file", ()),
    ],
)
def test_technologies_of_prose_are_precise(text: str, stacks: tuple[str, ...]) -> None:
    assert stack_of_prose(text) == stacks


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("**Early returns**: leave a function as soon as you can.", "Early returns"),
        ("Use `ruff` for linting. It is fast.", "Use ruff for linting"),
        ("**MUST** validate all input.", "MUST validate all input"),
        (
            "Validate all input at the boundary, in one place, with the schema that the API document gives for it",
            "Validate all input at the boundary, in one place",
        ),
        ("New features must\nhave a test.", "New features must have a test"),
        ("See [the guide](https://example.com/a_b) first.", "See the guide first"),
        ("**description**: Always use types.", "Always use types"),
        ("Title: Keep it small\nDescription: Use small functions.", "Keep it small"),
        ("必须使用类型注解。其他说明。", "必须使用类型注解"),
        ("1. First\n2. Second", "First"),
        ("Use e.g. snake_case names.", "Use e.g. snake_case names"),
    ],
)
def test_title_is_bold_lead_or_first_clause(text: str, title: str) -> None:
    assert title_of(text, ("Heading",)) == title


def test_title_falls_back_to_the_heading() -> None:
    assert title_of("```py\nx\n```", ("Guide", "2.1 Early returns")) == "Early returns"


def test_title_is_never_cut_within_a_word() -> None:
    text = "consideration " * 20
    title = title_of(text, ())
    assert len(title) <= 80
    assert set(title.removesuffix("…").split()) == {"consideration"}


@pytest.mark.parametrize(
    ("text", "category", "priority"),
    [
        ("CRITICAL: use types", "style", "critical"),
        ("NEVER log secrets", "security", "critical"),
        ("Rotate keys", "security", "high"),
        ("You must use types", "style", "high"),
        ("必须使用类型", "style", "high"),
        ("Consider using types", "style", "low"),
        ("Prefer tuples", "style", "low"),
        ("Use types", "style", "medium"),
    ],
)
def test_priority_follows_the_wording(text: str, category: str, priority: str) -> None:
    assert priority_of(text, category) == priority


@pytest.mark.parametrize(
    "text", ["Use x", "You should x", "Naming: use x", "请使用 x", "テストを書くこと", "Please run tests"]
)
def test_commands_are_recognised(text: str) -> None:
    assert commands(text)


@pytest.mark.parametrize("text", ["The server is fast", "A web framework", "Python 3.12"])
def test_descriptions_are_no_commands(text: str) -> None:
    assert not commands(text)


@pytest.mark.parametrize(
    "text", ["You are an expert in Go", "Act as a senior engineer", "你是一名专家", "You're a helpful bot"]
)
def test_persona_is_recognised(text: str) -> None:
    assert is_persona(text)

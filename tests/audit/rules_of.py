"""Rules and a corpus for tests of single checks, with vectors that depend on the words."""

from __future__ import annotations

import anyio

from symmetra_mcp.audit.corpus import Corpus
from symmetra_mcp.passages import passages
from symmetra_mcp.testing import FakeProvider
from symmetra_mcp.types import Rule, Scope, Source


def rule(
    guidance: str, *globs: str, path: str = "AGENTS.md", line: int = 1, project: str = "shop", stack: str = ""
) -> Rule:
    return Rule(
        project,
        f"{path}-{line}",
        guidance[:80],
        guidance,
        tech_stacks=(stack,) if stack else (),
        sources=(Source(path, line, line, scope=Scope("files", globs) if globs else Scope()),),
    )


def corpus(*rules: Rule, with_vectors: bool = True) -> Corpus:
    provider = FakeProvider(dimensions=256)
    texts = {passage.content_hash: passage.text for each in rules for passage in passages(each)}
    if not with_vectors:
        return Corpus(rules, {})
    vectors = anyio.run(provider.embed_documents, list(texts.values())).vectors
    return Corpus(rules, dict(zip(texts, vectors, strict=True)), 256)

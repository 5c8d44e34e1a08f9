"""Rules and spaces as rows of the embedded store, and back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from symmetra_mcp.passages import rule_terms
from symmetra_mcp.spaces import EmbeddingSpace
from symmetra_mcp.stores.rows import encode_scopes, source_of_fields
from symmetra_mcp.types import Rule

RULE_COLUMNS = (
    "project_id, rule_id, title, guidance, rationale, category, priority, tech_stacks, contexts, keywords, sources"
)
"""What `rule_of_row` reads, in its order."""
SPACE_COLUMNS = "provider, model, dimensions, normalized, variant"
"""What `space_of_row` reads, in its order."""


def row_of_rule(rule: Rule) -> tuple[Any, ...]:
    """`RULE_COLUMNS`, then scopes, terms and the time of writing."""
    return (
        rule.project_id,
        rule.rule_id,
        rule.title,
        rule.guidance,
        rule.rationale,
        rule.category,
        rule.priority,
        json.dumps(rule.tech_stacks),
        json.dumps(rule.contexts),
        json.dumps(rule.keywords),
        json.dumps([asdict(source) for source in rule.sources]),
        encode_scopes(rule.scopes),
        rule_terms(rule).to_bytes(),
        now(),
    )


def rule_of_row(row: Sequence[Any]) -> Rule:
    """A rule from `RULE_COLUMNS`."""
    project_id, rule_id, title, guidance, rationale, category, priority, stacks, contexts, keywords, sources = row
    return Rule(
        project_id=project_id,
        rule_id=rule_id,
        title=title,
        guidance=guidance,
        rationale=rationale,
        category=category,
        priority=priority,
        tech_stacks=tuple(json.loads(stacks)),
        contexts=tuple(json.loads(contexts)),
        keywords=tuple(json.loads(keywords)),
        sources=tuple(source_of_fields(fields) for fields in json.loads(sources)),
    )


def space_of_row(row: Sequence[Any]) -> EmbeddingSpace:
    """A space from `SPACE_COLUMNS`."""
    provider, model, dimensions, normalized, variant = row
    return EmbeddingSpace(provider, model, dimensions, bool(normalized), variant)


def now(timespec: str = "seconds") -> str:
    """The time as the store writes it: UTC, to the second unless it says otherwise."""
    return datetime.now(UTC).isoformat(timespec=timespec)

"""Rules, spaces and vectors as they travel to the team's database, and back."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from symmetra_mcp.passages import passages, rule_terms
from symmetra_mcp.spaces import EmbeddingSpace
from symmetra_mcp.stores.rows import encode_scopes, source_of_fields
from symmetra_mcp.types import PRIORITIES, Rule
from symmetra_mcp.words import TERMS_VERSION

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PREPARED = TERMS_VERSION
"""Version of what is derived from a rule's text before it is written: its terms and passages."""
_VECTOR_HEADER_BYTES = 4
_ESCAPE = "\x10"
"""Stands before what PostgreSQL's texts can't hold, and before itself: no text that people write has it."""


def row_of_rule(rule: Rule) -> dict[str, Any]:
    """A rule with all that the database keeps of it: `symmetra_write_rules` takes a list of these.

    Raises:
        UnicodeEncodeError: A text holds half of a surrogate pair, which is no character.
    """
    terms = rule_terms(rule)
    row = {
        "project_id": rule.project_id,
        "rule_id": rule.rule_id,
        "title": rule.title,
        "guidance": rule.guidance,
        "rationale": rule.rationale,
        "category": rule.category,
        "category_key": rule.category.casefold(),
        "priority": rule.priority,
        "priority_no": PRIORITIES.index(rule.priority) if rule.priority in PRIORITIES else 1,
        "tech_stacks": rule.tech_stacks,
        "contexts": rule.contexts,
        "keywords": rule.keywords,
        "sources": [asdict(source) for source in rule.sources],
        "scopes": encode_scopes(rule.scopes),
        "passages": [(passage.content_hash, passage.text) for passage in passages(rule)],
    }
    numbers = {
        "terms": terms.hashes.view("int64").tolist(),
        "term_counts": terms.counts.tolist(),
        "term_length": float(terms.counts.sum()),
        "prepared": PREPARED,
    }
    json.dumps(row, ensure_ascii=False).encode()  # half a surrogate pair is refused here, before anything is sent
    return {**escaped(row), **numbers}


def rule_of_row(row: Mapping[str, Any]) -> Rule:
    """A rule as the database gives it."""
    row = unescaped(row)
    return Rule(
        project_id=row["project_id"],
        rule_id=row["rule_id"],
        title=row["title"],
        guidance=row["guidance"],
        rationale=row["rationale"],
        category=row["category"],
        priority=row["priority"],
        tech_stacks=tuple(row["tech_stacks"]),
        contexts=tuple(row["contexts"]),
        keywords=tuple(row["keywords"]),
        sources=tuple(source_of_fields(fields) for fields in row["sources"]),
    )


def row_of_space(space: EmbeddingSpace) -> dict[str, Any]:
    """A space with its key."""
    return {"space_id": space.space_id, **asdict(space)}


def space_of_row(row: Mapping[str, Any] | None) -> EmbeddingSpace | None:
    """A space as the database gives it; `None` for none."""
    if row is None:
        return None
    return EmbeddingSpace(row["provider"], row["model"], row["dimensions"], row["normalized"], row["variant"])


def vector_text(vector: NDArray[np.float32]) -> str:
    """A vector as pgvector reads it: the shortest decimal numbers that give the same 32-bit floats."""
    numbers = ",".join(vector.astype("U").tolist())
    return f"[{numbers}]".replace("[0.", "[.").replace(",0.", ",.").replace("-0.", "-.")


def vector_of_base64(text: str) -> NDArray[np.float32]:
    """A vector from pgvector's binary form in base64: a header, then big-endian 32-bit floats."""
    import numpy as np

    return np.frombuffer(base64.b64decode(text), ">f4", offset=_VECTOR_HEADER_BYTES).astype(np.float32)


def escaped(value: Any) -> Any:
    """A value of JSON whose texts hold no NUL."""
    return _mapped(value, _escape)


def unescaped(value: Any) -> Any:
    """The value that `escaped` was given."""
    return _mapped(value, _unescape)


def _mapped(value: Any, change: Any) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {name: _mapped(each, change) for name, each in value.items()}
    if isinstance(value, Sequence):
        return [_mapped(each, change) for each in value]
    return value


def _escape(text: str) -> str:
    if "\0" not in text and _ESCAPE not in text:
        return text
    return text.replace(_ESCAPE, _ESCAPE + "e").replace("\0", _ESCAPE + "0")


def _unescape(text: str) -> str:
    if _ESCAPE not in text:
        return text
    return text.replace(_ESCAPE + "0", "\0").replace(_ESCAPE + "e", _ESCAPE)

"""Parts of a rule as columns, in every store alike."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from symmetra_mcp.types import Scope, Source


def encode_scopes(scopes: Sequence[Scope]) -> str:
    """Scopes as one column: empty for a rule that no glob limits."""
    if not all(scope.globs for scope in scopes):
        return ""
    return json.dumps([scope.globs for scope in scopes])


def decode_scopes(text: str) -> tuple[Scope, ...]:
    """Read what `encode_scopes` wrote."""
    if not text:
        return (Scope(),)
    return tuple(Scope("files", tuple(globs)) for globs in json.loads(text))


def source_of_fields(fields: Mapping[str, Any]) -> Source:
    """A source from its fields as JSON gives them."""
    scope = fields["scope"]
    return Source(
        **{
            **fields,
            "heading_path": tuple(fields["heading_path"]),
            "scope": Scope(**{**scope, "globs": tuple(scope["globs"])}),
        }
    )

"""A store for import tests."""

from __future__ import annotations

from collections.abc import Sequence

from symmetra_mcp.types import Rule, RuleKey


class MemoryRules:
    """A store that remembers what an import did to it."""

    def __init__(self) -> None:
        self.rules: dict[RuleKey, Rule] = {}
        self.batches: list[int] = []

    async def list_rules(self, project_id: str) -> list[Rule]:
        return [rule for rule in self.rules.values() if rule.project_id == project_id]

    async def upsert_rules(self, rules: Sequence[Rule]) -> None:
        self.batches.append(len(rules))
        self.rules.update({rule.key: rule for rule in rules})

    async def delete_rules(self, keys: Sequence[RuleKey]) -> int:
        return sum(self.rules.pop(key, None) is not None for key in keys)

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from symmetra_mcp.app import open_app
from symmetra_mcp.config import load_settings
from symmetra_mcp.search import SearchRequest
from symmetra_mcp.types import Rule


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"project": "shop"}, {"own", "of-all"}),
        ({"project": "shop", "starter_rules": False}, {"own", "of-all"}),
        ({"project_dir": "/", "starter_rules": False}, {"own", "of-all", "foreign"}),
    ],
    ids=["a project", "without starter rules", "no project"],
)
def test_questions_may_expect_what_a_search_considers(
    settings: dict[str, object], expected: set[str], tmp_path: Path
) -> None:
    (tmp_path / ".git").mkdir()
    rules = [
        Rule(project_id, rule_id, rule_id, "Lock the door.")
        for project_id, rule_id in (("shop", "own"), ("shared", "of-all"), ("bank", "foreign"))
    ]

    async def run() -> tuple[set[str], int, int]:
        async with open_app(load_settings(**{"project_dir": tmp_path, **settings})) as app:
            await app.ready()
            await app.store.upsert_rules(rules)
            found = await app.searched_rules()
            answer = await app.search(SearchRequest("lock the door"))
            return {rule.rule_id for rule in found if rule.project_id != "starter"}, len(found), answer.considered

    ids, number, considered = anyio.run(run)
    assert ids == expected
    assert number == considered
    assert (number > len(expected)) is settings.get("starter_rules", True)

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from loopback import Fault, LoopbackVendor

from symmetra_mcp.app import open_app
from symmetra_mcp.cloud_vector_search import cloud_vector_search_engine
from symmetra_mcp.embedding_config import EmbeddingManager


@pytest.fixture
def vendor(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackVendor]:
    with LoopbackVendor() as vendor:
        monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
        monkeypatch.setenv("OPENAI_BASE_URL", vendor.openai_base_url)
        yield vendor


def reembed() -> None:
    async def run() -> None:
        async with open_app() as app:
            await app.reembed()

    asyncio.run(run())


@pytest.mark.usefixtures("vendor")
def test_a_store_that_was_migrated_is_healthy_in_the_shape_of_the_older_system() -> None:
    reembed()
    health = cloud_vector_search_engine.health_check()
    assert health == {
        "status": "healthy",
        "components": {
            "sqlite": {"status": "healthy", "rule_count": 139},
            "openai": {"status": "healthy", "embedding_dimensions": 384},
        },
    }
    assert json.loads(json.dumps(health)) == health


def test_the_bundled_model_is_healthy_without_a_key() -> None:
    health = cloud_vector_search_engine.health_check()
    assert health["status"] == "healthy"
    assert health["components"]["local"] == {"status": "healthy", "embedding_dimensions": 384}


@pytest.mark.usefixtures("vendor")
def test_rules_that_are_not_embedded_are_told_with_the_next_step() -> None:
    health = cloud_vector_search_engine.health_check()
    assert health["status"] == "degraded"
    assert health["components"]["openai"] == {"status": "healthy", "embedding_dimensions": 384}
    rules = health["components"]["sqlite"]
    assert (rules["status"], rules["rule_count"]) == ("degraded", 139)
    assert "symmetra-mcp reembed" in rules["error"]


def test_a_vendor_that_refuses_the_key_is_named_with_its_error(vendor: LoopbackVendor) -> None:
    reembed()
    vendor.inject(Fault.WRONG_KEY, times=None)
    health = cloud_vector_search_engine.health_check()
    assert health["status"] == "degraded"
    assert health["components"]["openai"]["status"] == "unhealthy"
    assert "check `OPENAI_API_KEY`" in health["components"]["openai"]["error"]
    assert health["components"]["openai"]["embedding_dimensions"] == 384


@pytest.mark.usefixtures("vendor")
def test_the_provider_of_the_stored_rules_is_named_though_the_settings_choose_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reembed()
    monkeypatch.setenv("SYMMETRA_EMBEDDING_BACKEND", "local")
    health = cloud_vector_search_engine.health_check()
    assert set(health["components"]) == {"sqlite", "openai"}
    assert "`SYMMETRA_EMBEDDING_BACKEND` is 'local'" in health["components"]["openai"]["error"]


def test_an_unusable_data_folder_is_unhealthy_and_raises_nothing(data_dir: Path) -> None:
    data_dir.write_text("a file where the folder should be")
    health = cloud_vector_search_engine.health_check()
    assert health["status"] == "unhealthy"
    assert str(data_dir) in health["components"]["store"]["error"]
    assert health["components"]["local"]["status"] == "healthy"


def test_a_part_with_a_problem_is_shown_beside_the_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYMMETRA_RULES", "/nowhere/rules")
    health = cloud_vector_search_engine.health_check()
    assert set(health["components"]) == {"sqlite", "local", "project"}
    assert "/nowhere/rules" in health["components"]["project"]["error"]


def test_async_code_asks_too_and_a_model_that_cannot_be_found_is_no_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYMMETRA_EMBEDDING_BACKEND", "local")
    monkeypatch.setenv("SYMMETRA_EMBEDDING_MODEL", "./no-such-model")
    health = asyncio.run(cloud_vector_search_engine.health_check_async())
    assert health["components"]["embedding"]["status"] == "unhealthy"
    assert "no-such-model" in health["components"]["embedding"]["error"]


def test_a_health_check_leaves_a_manager_of_the_process_working(vendor: LoopbackVendor) -> None:
    manager = EmbeddingManager()
    manager.generate_embedding("before")
    cloud_vector_search_engine.health_check()
    assert len(manager.generate_embedding("after")) == 384
    manager.close()
    assert vendor.stats.by_status == {200: vendor.stats.requests}

"""Which provider the settings choose, and which serves a store that is filled."""

from __future__ import annotations

import sys
from typing import Any

import anyio
import pytest

from symmetra_mcp.config import BUNDLED_MODEL, load_settings
from symmetra_mcp.errors import ConfigError, NoProviderError, ProviderAuthError
from symmetra_mcp.providers.select import ProviderChoice, backend_of, model_of, select_providers
from symmetra_mcp.spaces import EmbeddingSpace
from symmetra_mcp.testing import FakeProvider

LOCAL = "local/all-MiniLM-L6-v2@384"
OPENAI = "openai/text-embedding-3-small@384"
COHERE = "cohere/embed-english-light-v3.0@384"
KEYS = {"openai_api_key": "sk-one", "cohere_api_key": "co-two"}


def choice_of(**settings: Any) -> ProviderChoice:
    return select_providers(load_settings(**settings))


def serving(choice: ProviderChoice, space: EmbeddingSpace | None) -> str:
    return str(anyio.run(choice.serving, space).space)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        pytest.param({}, LOCAL, id="nothing-set"),
        pytest.param({"openai_api_key": "sk-one"}, OPENAI, id="openais-key"),
        pytest.param({"cohere_api_key": "co-two"}, COHERE, id="coheres-key"),
        pytest.param({"co_api_key": "co-two"}, COHERE, id="coheres-key-by-its-other-name"),
        pytest.param(KEYS, OPENAI, id="both-keys"),
        pytest.param(KEYS | {"embedding_backend": "cohere"}, COHERE, id="cohere-by-name"),
        pytest.param(KEYS | {"embedding_backend": "local"}, LOCAL, id="local-by-name"),
        pytest.param({"openai_api_key": "  ", "cohere_api_key": "${COHERE_API_KEY}"}, LOCAL, id="empty-and-unexpanded"),
        pytest.param(KEYS | {"embedding_model": BUNDLED_MODEL}, OPENAI, id="the-local-model-of-an-older-env-file"),
        pytest.param(
            KEYS | {"embedding_model": "text-embedding-3-large", "embedding_dimensions": 1024},
            "openai/text-embedding-3-large@1024",
            id="large",
        ),
        pytest.param(
            KEYS | {"embedding_model": "text-embedding-ada-002"}, "openai/text-embedding-ada-002@1536", id="ada"
        ),
        pytest.param(
            {"cohere_api_key": "co-two", "embedding_model": "embed-v4.0"}, "cohere/embed-v4.0@512", id="embed-v4"
        ),
        pytest.param(
            {
                "embedding_backend": "openai",
                "openai_base_url": "http://localhost:11434/v1",
                "embedding_model": "nomic-embed-text:latest",
            },
            "openai/nomic-embed-text:latest@768+localhost:11434",
            id="ollama-without-a-key",
        ),
        pytest.param(
            {
                "openai_api_key": "k",
                "openai_base_url": "https://me.openai.azure.com/openai/v1",
                "embedding_model": "my-deployment",
                "embedding_dimensions": 1536,
            },
            "openai/my-deployment@1536+me.openai.azure.com",
            id="azure",
        ),
    ],
)
def test_the_settings_choose(settings: dict[str, Any], expected: str) -> None:
    choice = choice_of(**settings)
    assert str(choice.chosen.space) == expected
    assert serving(choice, None) == expected


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"embedding_backend": "cohere", "embedding_model": "text-embedding-3-small"},
            "is a model of openai",
        ),
        ({"embedding_backend": "local", "embedding_model": "embed-v4.0"}, "is a model of cohere"),
        (KEYS | {"embedding_dimensions": 1537}, "at most 1536"),
        (KEYS | {"embedding_model": "text-embedding-ada-002", "embedding_dimensions": 384}, "have 1536 numbers"),
        (KEYS | {"embedding_backend": "cohere", "embedding_dimensions": 512}, "can have 384 numbers"),
        (
            KEYS | {"embedding_backend": "openai", "embedding_model": "own-model"},
            "vectors of 'own-model'",
        ),
        ({"embedding_dimensions": 512}, "have 384 numbers"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        choice_of(**settings)


@pytest.mark.parametrize(("backend", "variable"), [("openai", "OPENAI_API_KEY"), ("cohere", "COHERE_API_KEY")])
def test_a_named_vendor_without_its_key_says_so_when_it_is_asked(backend: str, variable: str) -> None:
    choice = choice_of(embedding_backend=backend)
    assert choice.chosen.space.provider == backend
    with pytest.raises(ProviderAuthError, match=f"`{variable}` is not set"):
        anyio.run(choice.chosen.embed_query, "text")


SPACES = {
    "local": EmbeddingSpace("local", BUNDLED_MODEL, 384),
    "openai": EmbeddingSpace("openai", "text-embedding-3-small", 384),
    "openai-large": EmbeddingSpace("openai", "text-embedding-3-large", 256),
    "cohere": EmbeddingSpace("cohere", "embed-english-light-v3.0", 384),
}


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("settings", [{}, KEYS, KEYS | {"embedding_model": "text-embedding-3-large"}], ids=str)
def test_a_filled_store_is_served_in_its_space_or_not_at_all(settings: dict[str, Any], space: str) -> None:
    choice = choice_of(**settings)
    if not settings and space != "local":
        with pytest.raises(NoProviderError, match=r"_API_KEY` is not set.*`symmetra-mcp reembed`"):
            serving(choice, SPACES[space])
        return
    assert serving(choice, SPACES[space]) == str(SPACES[space])


def test_a_vendor_that_is_named_keeps_queries_from_every_other() -> None:
    choice = choice_of(embedding_backend="cohere", **KEYS)
    with pytest.raises(NoProviderError, match=r"BACKEND` is 'cohere'.*`symmetra-mcp reembed`"):
        serving(choice, SPACES["openai"])
    choice = choice_of(embedding_backend="local", **KEYS)
    with pytest.raises(NoProviderError, match=r"BACKEND` is 'local'"):
        serving(choice, SPACES["cohere"])


def test_a_model_of_one_name_on_another_server_is_another_space() -> None:
    choice = choice_of(openai_api_key="sk-one", openai_base_url="https://gateway.example/v1")
    with pytest.raises(NoProviderError, match="the address that is set now belongs to"):
        serving(choice, SPACES["openai"])


@pytest.mark.parametrize(
    ("settings", "kept"),
    [({}, False), (KEYS, True), (KEYS | {"embedding_backup": False}, False), ({"embedding_backend": "local"}, False)],
)
def test_a_backup_is_kept_beside_a_vendors_space_unless_it_is_turned_off(settings: dict[str, Any], kept: bool) -> None:
    choice = choice_of(**settings)
    assert (choice.backup is not None) == kept
    assert choice.backup is None or str(choice.backup.space) == LOCAL


def test_making_a_choice_imports_no_vendors_sdk() -> None:
    before = set(sys.modules)
    choice_of(**KEYS)
    choice_of(embedding_backend="local", embedding_model="BAAI/bge-small-en-v1.5")
    loaded = {name.partition(".")[0] for name in set(sys.modules) - before}
    assert loaded.isdisjoint({"openai", "cohere", "torch", "sentence_transformers", "onnxruntime"})


def test_what_auto_comes_to_is_told_without_making_a_provider() -> None:
    assert backend_of(load_settings(**KEYS)) == "openai"
    assert model_of(load_settings(embedding_model="BAAI/bge-m3"), "local") == "BAAI/bge-m3"


def test_a_space_that_nobody_embeds_in_is_told() -> None:
    with pytest.raises(NoProviderError, match="the settings choose fake/words@64"):
        serving(ProviderChoice(FakeProvider()), SPACES["openai"])

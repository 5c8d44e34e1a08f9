from __future__ import annotations

import os
from pathlib import Path
from typing import get_args

import pytest
from platformdirs import user_data_path

from symmetra_mcp.config import (
    BUNDLED_MODEL,
    EmbeddingBackend,
    LogLevel,
    Settings,
    checked_project_id,
    load_settings,
    variable_of,
)
from symmetra_mcp.errors import ConfigError

NAMES = [variable_of(name) for name in Settings.model_fields]


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SYMMETRA_DATA_DIR")


DEFAULTS = {
    "embedding_backend": "auto",
    "embedding_model": "",
    "embedding_dimensions": None,
    "openai_api_key": None,
    "openai_base_url": "",
    "cohere_api_key": None,
    "co_api_key": None,
    "co_api_url": "",
    "embedding_timeout": 3.0,
    "embedding_requests_per_minute": None,
    "embedding_tokens_per_minute": None,
    "embedding_inputs_per_minute": None,
    "embedding_price": None,
    "spending_limit": None,
    "embedding_backup": True,
    "rerank": "off",
    "rerank_model": "",
    "rerank_candidates": 40,
    "rerank_timeout": 2.0,
    "rerank_price": None,
    "query_cache": True,
    "store": "auto",
    "data_dir": None,
    "supabase_url": "",
    "supabase_key": None,
    "plain_supabase_url": "",
    "plain_supabase_key": None,
    "supabase_service_role_key": None,
    "db_url": None,
    "supabase_access_token": None,
    "supabase_api_url": "https://api.supabase.com",
    "mirror": True,
    "rules": None,
    "starter_rules": True,
    "project": "",
    "project_dir": None,
    "allow_writes": False,
    "read_only": False,
    "tools": (),
    "http_token": None,
    "http_issuer": "",
    "http_jwks_url": "",
    "http_key_file": None,
    "http_audience": "",
    "http_scopes": (),
    "http_url": "",
    "http_allowed_hosts": (),
    "http_allowed_origins": (),
    "log_level": "warning",
    "otel_endpoint": "",
    "otel_traces_endpoint": "",
    "otel_traces_exporter": "",
    "otel_sdk_disabled": "",
    "otel_service_name": "",
}


def test_nothing_set_is_the_documented_default() -> None:
    settings = load_settings()
    assert settings.model_dump() == DEFAULTS
    assert settings.data_folder == user_data_path("symmetra-mcp", appauthor=False).absolute()
    assert settings.working_folder == Path.cwd()


def test_every_setting_is_described() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


@pytest.mark.parametrize("value", ["", "   ", "${NOT_EXPANDED}", " ${user_config.key} ", "${}"])
@pytest.mark.parametrize("name", NAMES)
def test_an_empty_or_unexpanded_value_counts_as_not_set(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    assert load_settings().model_dump() == DEFAULTS


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        pytest.param("EMBEDDING_BACKEND", " LOCAL ", "local", id="backend"),
        pytest.param("EMBEDDING_MODEL", f"sentence-transformers/{BUNDLED_MODEL}", BUNDLED_MODEL, id="model-full-name"),
        pytest.param("DATA_DIR", "/srv/rules", Path("/srv/rules"), id="data-dir"),
        pytest.param("STARTER_RULES", "0", False, id="starter-rules-off"),
        pytest.param("STARTER_RULES", "true", True, id="starter-rules-on"),
        pytest.param("PROJECT", " my.Shop_2 ", "my.Shop_2", id="project"),
        pytest.param("PROJECT_DIR", "/srv/shop", Path("/srv/shop"), id="project-dir"),
        pytest.param("LOG_LEVEL", "DEBUG", "debug", id="log-level"),
    ],
)
def test_a_setting_is_read_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, expected: object
) -> None:
    monkeypatch.setenv(f"SYMMETRA_{name}", value)
    assert load_settings().model_dump() == DEFAULTS | {name.lower(): expected}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param("AGENTS.md", ("AGENTS.md",), id="one"),
        pytest.param(os.pathsep.join(["a", " b c ", "", "d"]), ("a", "b c", "d"), id="several"),
        pytest.param("0", (), id="zero"),
        pytest.param(" Off ", (), id="off"),
        pytest.param("false", (), id="false"),
        pytest.param("NO", (), id="no"),
        pytest.param(os.pathsep, (), id="separators-only"),
        pytest.param("~/rules", ("~/rules",), id="home-is-kept"),
    ],
)
def test_rules_are_separated_as_paths_are(
    monkeypatch: pytest.MonkeyPatch, value: str, expected: tuple[str, ...]
) -> None:
    monkeypatch.setenv("SYMMETRA_RULES", value)
    assert load_settings().rules == expected


def test_the_env_file_is_read_and_the_environment_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text(
        "# comment\nexport SYMMETRA_PROJECT='from-file'\nSYMMETRA_LOG_LEVEL=debug\nSYMMETRA_DATA_DIR=\n"
        "OTHER_TOOLS_SECRET=kept out\nSYMMETRA_NOT_OURS=1\nSYMMETRA_RULES=0\n",
        "utf-8",
    )
    monkeypatch.setenv("SYMMETRA_LOG_LEVEL", "error")
    assert load_settings().model_dump() == DEFAULTS | {"project": "from-file", "log_level": "error", "rules": ()}


@pytest.mark.parametrize(
    "value",
    [
        pytest.param("", id="empty"),
        pytest.param("${NOT_EXPANDED}", id="unexpanded"),
    ],
)
def test_a_value_that_counts_as_not_set_leaves_the_env_file_in_force(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    Path(".env").write_text("SYMMETRA_PROJECT=from-file\n", "utf-8")
    monkeypatch.setenv("SYMMETRA_PROJECT", value)
    assert load_settings().project == "from-file"


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"\xef\xbb\xbfSYMMETRA_LOG_LEVEL=debug\n", id="byte-order-mark"),
        pytest.param(b"no assignment here\n=\n'\n", id="no-assignments"),
        pytest.param(b"", id="empty"),
    ],
)
def test_an_odd_env_file_stops_nothing(content: bytes) -> None:
    Path(".env").write_bytes(content)
    assert isinstance(load_settings(), Settings)


def test_a_byte_order_mark_hides_no_variable() -> None:
    Path(".env").write_bytes(b"\xef\xbb\xbfSYMMETRA_LOG_LEVEL=debug\r\nSYMMETRA_PROJECT=web\r\n")
    settings = load_settings()
    assert (settings.log_level, settings.project) == ("debug", "web")


def test_an_env_file_that_is_no_text_and_names_none_of_ours_stops_nothing() -> None:
    Path(".env").write_bytes(b"GREETING=caf\xe9\n")
    assert load_settings().model_dump() == DEFAULTS


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_an_env_file_that_is_no_text_and_names_one_of_ours_is_refused(name: str, encoding: str) -> None:
    Path(".env").write_bytes(f"greeting=café\n{name.lower()}=1\n".encode(encoding))
    with pytest.raises(ConfigError, match=r"`\.env`.*UTF-8"):
        load_settings()


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="everybody, or the superuser, reads any file")
def test_an_env_file_that_may_not_be_read_is_named() -> None:
    Path(".env").touch(0o000)
    with pytest.raises(ConfigError, match=r"`\.env` in the working directory can't be read"):
        load_settings()


@pytest.mark.parametrize("place", ["environment", "file"])
@pytest.mark.parametrize("name", ["DATA_DIR", "PROJECT_DIR", "RULES"])
@pytest.mark.parametrize("value", ["${HOME}/rules", "rules/${USER", f"a{os.pathsep}${{HOME}}", "${A}${B}"])
def test_a_path_with_a_variable_that_is_not_expanded_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, place: str
) -> None:
    if place == "environment":
        monkeypatch.setenv(f"SYMMETRA_{name}", value)
    else:
        Path(".env").write_text(f"SYMMETRA_{name}={value}\n", "utf-8")
    with pytest.raises(ConfigError, match=rf"`SYMMETRA_{name}`: it holds a `\$\{{\.\.\.\}}` that nothing has expanded"):
        load_settings()


def test_the_env_file_of_a_project_gets_no_value_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTHER_SECRET", "Canary")
    Path(".env").write_text(
        "COHERE_API_KEY=${OTHER_SECRET}\nOPENAI_API_KEY=x-${OTHER_SECRET}\n"
        "OPENAI_BASE_URL=https://${OTHER_SECRET}.example\n",
        "utf-8",
    )
    settings = load_settings()
    assert settings.cohere_api_key is None
    assert "Canary" not in settings.openai_key + settings.openai_base_url


def test_an_env_file_that_is_no_text_is_named() -> None:
    Path(".env").write_bytes(b"SYMMETRA_PROJECT=caf\xe9\nOPENAI_API_KEY=sk-secret\n")
    with pytest.raises(ConfigError, match=r"`\.env`.*UTF-8") as caught:
        load_settings()
    assert "secret" not in str(caught.value)
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    ("name", "value", "accepted"),
    [
        pytest.param("EMBEDDING_BACKEND", "word2vec", get_args(EmbeddingBackend), id="backend"),
        pytest.param("EMBEDDING_DIMENSIONS", "many", ("integer",), id="dimensions"),
        pytest.param("SPENDING_LIMIT", "-1", ("greater than or equal to 0",), id="spending-limit"),
        pytest.param("LOG_LEVEL", "loud", get_args(LogLevel), id="log-level"),
        pytest.param("STARTER_RULES", "maybe", ("boolean",), id="starter-rules"),
        pytest.param("PROJECT", "two words", ("letters", "digits", "`.`", "`_`", "`-`"), id="project"),
    ],
)
def test_a_wrong_value_names_the_variable_and_what_it_accepts(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, accepted: tuple[str, ...]
) -> None:
    monkeypatch.setenv(f"SYMMETRA_{name}", value)
    with pytest.raises(ConfigError) as caught:
        load_settings()
    message = str(caught.value)
    assert f"`SYMMETRA_{name}`" in message
    assert repr(value) in message
    assert [word for word in accepted if word not in message] == []


def test_every_wrong_value_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYMMETRA_LOG_LEVEL", "loud")
    monkeypatch.setenv("SYMMETRA_EMBEDDING_BACKEND", "word2vec")
    with pytest.raises(ConfigError, match=r"(?s)(LOG_LEVEL.*BACKEND|BACKEND.*LOG_LEVEL)"):
        load_settings()


def test_overrides_win_over_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SYMMETRA_DATA_DIR", "/elsewhere")
    assert load_settings(data_dir=tmp_path).data_folder == tmp_path


def test_folders_begin_at_home_where_they_say_so_and_are_absolute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYMMETRA_DATA_DIR", "~/rules")
    monkeypatch.setenv("SYMMETRA_PROJECT_DIR", "shop")
    settings = load_settings()
    assert settings.data_folder == Path.home() / "rules"
    assert settings.working_folder == Path.cwd() / "shop"


def test_the_editor_may_name_the_project_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CLAUDE_PROJECT_DIR", str(tmp_path))
    assert load_settings().working_folder == tmp_path
    assert load_settings(project_dir=tmp_path / "own").working_folder == tmp_path / "own"


@pytest.mark.parametrize("hinted", ["", "${CLAUDE_PROJECT_DIR}", "/no/such/folder"])
def test_a_hint_that_is_no_folder_is_ignored(monkeypatch: pytest.MonkeyPatch, hinted: str) -> None:
    monkeypatch.setenv("CLAUDE_PROJECT_DIR", hinted)
    assert load_settings().working_folder == Path.cwd()


@pytest.mark.parametrize("value", ["a", "A1", "my-shop", "my_shop.v2", "9lives", "x" * 100])
def test_a_project_may_be_called(value: str) -> None:
    assert checked_project_id(value) == value


@pytest.mark.parametrize("value", ["", "-a", ".a", "_a", "a/b", "a b", "ä", "a\n", "a\0", "..", "x" * 101])
def test_a_project_may_not_be_called(value: str) -> None:
    with pytest.raises(ValueError, match="up to 100 letters"):
        checked_project_id(value)


def test_settings_do_not_change() -> None:
    settings = load_settings()
    with pytest.raises(ValueError, match="frozen"):
        settings.project = "other"  # type: ignore[misc]  # what is refused


@pytest.mark.parametrize("name", ["OPENAI_API_KEY", "COHERE_API_KEY", "CO_API_KEY"])
def test_a_key_is_trimmed_and_never_shown(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "  sk-Canary-0123456789\r\n")
    settings = load_settings()
    assert (settings.openai_key or settings.cohere_key) == "sk-Canary-0123456789"
    assert "Canary" not in repr(settings) + str(settings) + str(settings.model_dump()) + settings.model_dump_json()


@pytest.mark.parametrize(
    "value", ["sk-Canary 1", "sk-Canary\n1", '"sk-Canary"', "'sk-Canary'", "sk-Canaryä", "sk-Canary\x00"]
)
def test_a_key_that_can_be_none_is_refused_by_name(value: str) -> None:
    Path(".env").write_text("", "utf-8")
    with pytest.raises(ConfigError, match="`OPENAI_API_KEY` holds a character that no key can hold") as caught:
        load_settings(openai_api_key=value)
    assert "Canary" not in str(caught.value)


def test_a_broken_key_of_a_vendor_that_is_not_asked_stops_nothing() -> None:
    assert load_settings(openai_api_key="two words", embedding_backend="cohere").embedding_backend == "cohere"
    assert load_settings(cohere_api_key="two words", embedding_backend="local").embedding_backend == "local"


def test_coheres_key_counts_by_either_name_and_an_unexpanded_one_hides_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CO_API_KEY", "second-name")
    monkeypatch.setenv("COHERE_API_KEY", "${COHERE_API_KEY}")
    assert load_settings().cohere_key == "second-name"
    monkeypatch.setenv("COHERE_API_KEY", "first-name")
    assert load_settings().cohere_key == "first-name"


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost:11434/v1",
        "http://127.0.0.1:8080",
        "http://[::1]:8080/v1",
        "http://192.168.0.7:1234/v1",
        "http://ollama:11434/v1",
        "http://models.internal/v1",
        "https://example.openai.azure.com/openai/v1/",
    ],
)
def test_a_key_may_travel_encrypted_or_inside_the_own_network(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    assert load_settings().openai_base_url == url.rstrip("/")


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/v1",
        "http://172.32.0.1/v1",
        "https://user:Canary@example.com/v1",
        "https://example.com/v1?api_key=Canary",
        "ftp://example.com",
        "example.com/Canary",
        "https://",
        "https://example.com:port/Canary",
    ],
)
def test_an_address_that_is_not_safe_for_a_key_is_refused(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    with pytest.raises(ConfigError, match="`OPENAI_BASE_URL`") as caught:
        load_settings()
    assert "Canary" not in str(caught.value)


def test_the_env_file_of_a_project_does_not_choose_where_the_users_key_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("OPENAI_BASE_URL=https://elsewhere.example\nOPENAI_API_KEY=theirs\n", "utf-8")
    settings = load_settings()
    assert (settings.openai_key, settings.openai_base_url) == ("theirs", "https://elsewhere.example")
    monkeypatch.setenv("OPENAI_API_KEY", "mine")
    settings = load_settings()
    assert (settings.openai_key, settings.openai_base_url) == ("mine", "")


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, ""),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318/"}, "http://collector:4318/v1/traces"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://b/x"}, "http://b/x"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a", "OTEL_SDK_DISABLED": "TRUE"}, ""),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a", "OTEL_SDK_DISABLED": "1"}, "http://a/v1/traces"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a", "OTEL_TRACES_EXPORTER": "none"}, ""),
    ],
)
def test_spans_go_where_the_standard_variables_say(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert load_settings().traces_endpoint == expected

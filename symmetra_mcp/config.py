"""Settings, from the environment and then from `.env`; no other module reads either."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from dotenv import dotenv_values
from platformdirs import user_data_path
from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)
from typing_extensions import override

from symmetra_mcp.errors import ConfigError

EmbeddingBackend = Literal["auto", "openai", "cohere", "local"]
RerankChoice = Literal["off", "cohere", "local"]
LogLevel = Literal["debug", "info", "warning", "error"]
StoreChoice = Literal["auto", "embedded", "supabase"]
BUNDLED_MODEL = "all-MiniLM-L6-v2"
OPENAI_URL = "https://api.openai.com/v1"
COHERE_URL = "https://api.cohere.com"
SUPABASE_API_URL = "https://api.supabase.com"
_ENV_FILE = ".env"
_UNEXPANDED = re.compile(r"\$\{[^}]*\}")
_KEY = re.compile(r"[!#-&(-_a-~]+")
"""Visible ASCII without quotation marks and backticks: what else a key holds came with it by mistake."""
_SUPABASE_KEYS = frozenset({"supabase_key", "plain_supabase_key", "supabase_service_role_key"})
_KEYS_OF_ADDRESSES = {
    "openai_base_url": frozenset({"openai_api_key"}),
    "co_api_url": frozenset({"cohere_api_key", "co_api_key"}),
    "supabase_url": _SUPABASE_KEYS,
    "supabase_api_url": frozenset({"supabase_access_token"}),
}
_OF_THE_PROJECTS_OWN_APPLICATION = frozenset(
    {
        "plain_supabase_url",
        "plain_supabase_key",
        "supabase_service_role_key",
        "otel_endpoint",
        "otel_traces_endpoint",
        "otel_traces_exporter",
        "otel_sdk_disabled",
        "otel_service_name",
    }
)
"""Names that count from the environment alone: in a project's `.env` they belong to the application that it builds."""
_WHO_MAY_COME_IN = frozenset(
    {
        "http_token",
        "http_issuer",
        "http_jwks_url",
        "http_key_file",
        "http_audience",
        "http_scopes",
        "http_url",
        "http_allowed_hosts",
        "http_allowed_origins",
    }
)
"""Likewise: the `.env` of somebody else's project would let them in."""
_PRIVATE_HOST = re.compile(
    r"localhost|127\.[\d.]+|::1|10\.[\d.]+|192\.168\.[\d.]+|172\.(1[6-9]|2\d|3[01])\.[\d.]+|[^.:]+|.+\.(local|internal|lan)"
)
"""Hosts that a key may travel to without TLS."""
_HOST = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:\d{1,5})?")
_REF = re.compile(r"[a-z]{20}")
_PROJECT_REF = re.compile(r"([a-z]{20})\.supabase\.(?:co|in|net)")
_PROJECT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class _WithoutUnset(PydanticBaseSettingsSource):
    """A source of settings without the values that count as not set, so that the next source is asked for them."""

    def __init__(self, settings_cls: type[BaseSettings], source: PydanticBaseSettingsSource) -> None:
        super().__init__(settings_cls)
        self._source = source

    @override
    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        return self._source.get_field_value(field, field_name)

    @override
    def __call__(self) -> dict[str, Any]:
        return {name: value for name, value in self._source().items() if not _is_unset(value)}


class _ProjectFile(_WithoutUnset):
    """The `.env` of the folder we are started in. It may belong to somebody else's project.

    So it does not choose where a key of the environment is sent: an address in it counts beside a key in it alone. And
    no `${VARIABLE}` in it is expanded: an address could carry away any secret of the environment.

    Raises:
        ConfigError: The file can't be read, or is no text and may hold a setting.
    """

    def __init__(self, settings_cls: type[BaseSettings], environment: _WithoutUnset) -> None:
        source = EnvSettingsSource(settings_cls)
        source.env_vars = _env_file_values()
        super().__init__(settings_cls, source)
        self._environment = environment

    @override
    def __call__(self) -> dict[str, Any]:
        from_environment = {_field_named(name) for name in self._environment()}
        held_back = {url for url, keys in _KEYS_OF_ADDRESSES.items() if from_environment & keys}
        held_back |= _OF_THE_PROJECTS_OWN_APPLICATION | _WHO_MAY_COME_IN
        return {name: value for name, value in super().__call__().items() if _field_named(name) not in held_back}


@dataclass(frozen=True, slots=True)
class SupabaseAddress:
    """A Supabase project.

    Attributes:
        url: `https://REF.supabase.co`, or the address of an own installation.
        key: Secret, publishable or service-role key, or a user's token.
    """

    url: str
    key: SecretStr

    @property
    def project_ref(self) -> str:
        """The project's twenty letters, or empty for an own installation."""
        found = _PROJECT_REF.fullmatch(urlsplit(self.url).hostname or "")
        return found[1] if found else ""


class Settings(BaseSettings):
    """Everything that can be set, each by the environment variable `SYMMETRA_` + its name in capitals.

    An empty value and a `${VARIABLE}` that no shell has expanded count as not set: editors hand on both.
    """

    model_config = SettingsConfigDict(
        env_prefix="SYMMETRA_",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        populate_by_name=True,
    )

    embedding_backend: EmbeddingBackend = Field(
        default="auto",
        description="Which provider embeds: `auto`, `openai`, `cohere` or `local`. `auto` takes OpenAI where its key "
        "is set, else Cohere, else the local model; rules that are embedded already stay in their space.",
    )
    embedding_model: str = Field(
        default="",
        description="Model: `text-embedding-3-small`, `embed-english-light-v3.0` or `all-MiniLM-L6-v2` by default. For "
        "`local` any SentenceTransformers model by name or folder.",
    )
    embedding_dimensions: int | None = Field(
        default=None,
        ge=1,
        le=16_000,
        description="Length of the vectors, where the model offers a choice or is not known here. Default: 384.",
    )
    openai_api_key: SecretStr | None = Field(
        default=None,
        validation_alias="OPENAI_API_KEY",
        description="Key of OpenAI, or of a server that speaks its API.",
    )
    openai_base_url: str = Field(
        default="",
        validation_alias="OPENAI_BASE_URL",
        description="Server that speaks OpenAI's API: Ollama, vLLM, TEI, LM Studio, Azure. Default: OpenAI's own.",
    )
    cohere_api_key: SecretStr | None = Field(
        default=None, validation_alias="COHERE_API_KEY", description="Key of Cohere."
    )
    co_api_key: SecretStr | None = Field(
        default=None, validation_alias="CO_API_KEY", description="The same, by the name that Cohere's SDK reads."
    )
    co_api_url: str = Field(
        default="", validation_alias="CO_API_URL", description="Server that speaks Cohere's API. Default: Cohere's own."
    )
    embedding_timeout: float = Field(
        default=3.0,
        gt=0,
        le=60,
        description="Seconds that a search waits for its embedding, a second try included, before it falls back.",
    )
    embedding_requests_per_minute: float | None = Field(
        default=None, gt=0, description="Most requests a minute. Default: what the provider's answers tell."
    )
    embedding_tokens_per_minute: float | None = Field(
        default=None, gt=0, description="Most tokens a minute. Default: what the provider's answers tell."
    )
    embedding_inputs_per_minute: float | None = Field(
        default=None, gt=0, description="Most texts a minute. Default: 2,000 for Cohere, as its documentation says."
    )
    embedding_price: float | None = Field(
        default=None,
        ge=0,
        le=10_000,
        allow_inf_nan=False,
        description="US dollars for a million tokens, where it is not the list price.",
    )
    spending_limit: float | None = Field(
        default=None,
        ge=0,
        allow_inf_nan=False,
        description="Most US dollars to spend on embeddings and re-ranking in a calendar month (UTC).",
    )
    embedding_backup: bool = Field(
        default=True,
        description="`0` doesn't keep vectors of the bundled model beside a provider's: searches then have words alone "
        "while the provider is down.",
    )
    rerank: RerankChoice = Field(
        default="off",
        description="What reads the best rules again beside the question and puts them in order: `off`, `cohere` or "
        "`local`. `cohere` is sent the question and these rules with every search.",
    )
    rerank_model: str = Field(
        default="",
        description="Model of the re-ranker: `rerank-v5.0-fast` or `cross-encoder/ms-marco-MiniLM-L6-v2` by default. "
        "For `local` any cross-encoder of SentenceTransformers by name or folder.",
    )
    rerank_candidates: int = Field(default=40, ge=2, le=100, description="How many of the best rules it reads.")
    rerank_timeout: float = Field(
        default=2.0, gt=0, le=60, description="Seconds that a search waits for it, before the order stays as it was."
    )
    rerank_price: float | None = Field(
        default=None,
        ge=0,
        le=10_000,
        allow_inf_nan=False,
        description="US dollars for a million tokens of `rerank-v5.0-fast` and `rerank-v5.0-pro`, for 1,000 searches "
        "of other models. Default: unknown.",
    )
    query_cache: bool = Field(default=True, description="`0` keeps no vectors of queries on disk.")
    store: StoreChoice = Field(
        default="auto",
        description="Where rules are kept: `embedded` on this machine, `supabase` in a team's database. `auto` takes "
        "Supabase where its address and key are set.",
    )
    data_dir: Path | None = Field(
        default=None, description="Folder of the rule store. Default: the user's data folder of the system."
    )
    supabase_url: str = Field(default="", description="Address of the team's Supabase project.")
    supabase_key: SecretStr | None = Field(
        default=None, description="Its secret key, which reads and writes, or a key that may read alone."
    )
    plain_supabase_url: str = Field(
        default="", validation_alias="SUPABASE_URL", description="The same address; counts from the environment alone."
    )
    plain_supabase_key: SecretStr | None = Field(
        default=None, validation_alias="SUPABASE_KEY", description="The same key; counts from the environment alone."
    )
    supabase_service_role_key: SecretStr | None = Field(
        default=None,
        validation_alias="SUPABASE_SERVICE_ROLE_KEY",
        description="The same key by its older name; counts from the environment alone.",
    )
    db_url: SecretStr | None = Field(
        default=None, description="Connection string of the database, with its password; for `symmetra-mcp schema`."
    )
    supabase_access_token: SecretStr | None = Field(
        default=None,
        validation_alias="SUPABASE_ACCESS_TOKEN",
        description="Token of Supabase's Management API; for `symmetra-mcp schema` without a connection string.",
    )
    supabase_api_url: str = Field(
        default=SUPABASE_API_URL, description="Address of the Management API, where it is not Supabase's own."
    )
    mirror: bool = Field(
        default=True,
        description="`0` keeps no copy of the team's rules on this machine, which answers while Supabase is down.",
    )
    rules: Annotated[tuple[str, ...] | None, NoDecode] = Field(
        default=None,
        description="Rule files and folders the server reads by itself, separated as in `PATH`; `0` reads none. "
        "Default: the project it is started in.",
    )
    starter_rules: bool = Field(default=True, description="`0` leaves the starter rules out of every search.")
    project: str = Field(default="", description="Name of the project. Default: made from the project's folder.")
    project_dir: Path | None = Field(
        default=None, description="The project's folder. Default: `CLAUDE_PROJECT_DIR`, else the working directory."
    )
    allow_writes: bool = Field(
        default=False, description="`1` gives assistants the tools `save_rule` and `delete_rule`."
    )
    read_only: bool = Field(
        default=False, description="`1` leaves out every tool that changes anything, `reembed_all` too."
    )
    tools: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="Tools that assistants get, comma-separated. Default: all."
    )
    http_token: SecretStr | None = Field(
        default=None,
        description="For `serve --http`: the token that every client sends, 32 characters or more. This and the other "
        "settings of HTTP count from the environment alone.",
    )
    http_issuer: str = Field(default="", description="Who issues the signed tokens (JWT) that clients send instead.")
    http_jwks_url: str = Field(default="", description="Address of the issuer's public keys, as a JWK set.")
    http_key_file: Path | None = Field(
        default=None, description="The same keys in a file instead: a JWK set, or a public key as PEM."
    )
    http_audience: str = Field(
        default="", description="Whom such a token must be meant for. Default: the server's own address."
    )
    http_scopes: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="Scopes that such a token must have, comma-separated."
    )
    http_url: str = Field(
        default="", description="Address by which clients reach the server, such as `https://rules.example.com/mcp`."
    )
    http_allowed_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Further hosts that clients may name, comma-separated, each with its port if any.",
    )
    http_allowed_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Web pages that may call the server, comma-separated, such as `https://app.example.com`.",
    )
    log_level: LogLevel = Field(default="warning", description="What is logged to stderr: debug, info, warning, error.")
    otel_endpoint: str = Field(
        default="",
        validation_alias="OTEL_EXPORTER_OTLP_ENDPOINT",
        description="OpenTelemetry collector that gets spans of every request, by OTLP over HTTP, such as "
        "http://localhost:4318; counts from the environment alone.",
    )
    otel_traces_endpoint: str = Field(
        default="",
        validation_alias="OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        description="The same with its whole path, for spans alone; counts from the environment alone.",
    )
    otel_traces_exporter: str = Field(
        default="",
        validation_alias="OTEL_TRACES_EXPORTER",
        description="`none` sends no spans; counts from the environment alone.",
    )
    otel_sdk_disabled: str = Field(
        default="",
        validation_alias="OTEL_SDK_DISABLED",
        description="`true` sends no spans; counts from the environment alone.",
    )
    otel_service_name: str = Field(
        default="",
        validation_alias="OTEL_SERVICE_NAME",
        description="What the spans' service is called. Default: symmetra-mcp; counts from the environment alone.",
    )

    @classmethod
    def settings_customise_sources(  # pydantic's name
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then the environment, then `.env`, each without what counts as not set."""
        del dotenv_settings, file_secret_settings  # the former would expand variables
        environment = _WithoutUnset(settings_cls, env_settings)
        return (
            _WithoutUnset(settings_cls, init_settings),
            environment,
            _ProjectFile(settings_cls, environment),
        )

    @field_validator("embedding_backend", "rerank", "log_level", "store", mode="before")
    @classmethod
    def _lower(cls, value: Any) -> Any:
        return value.strip().lower() if isinstance(value, str) else value

    @field_validator("tools", "http_scopes", "http_allowed_hosts", "http_allowed_origins", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        return [name.strip() for name in value.split(",") if name.strip()] if isinstance(value, str) else value

    @field_validator("embedding_model")
    @classmethod
    def _bundled_model_by_its_short_name(cls, value: str) -> str:
        name = value.strip()
        return BUNDLED_MODEL if name == f"sentence-transformers/{BUNDLED_MODEL}" else name

    @field_validator("rerank_model")
    @classmethod
    def _rerank_model_name(cls, value: str) -> str:
        return value.strip()

    @field_validator("openai_base_url", "co_api_url", "supabase_url", "plain_supabase_url", "supabase_api_url")
    @classmethod
    def _safe_url(cls, value: str) -> str:
        return _checked_url(value.strip()) if value.strip() else ""

    @field_validator("http_issuer", "http_jwks_url", "http_url")
    @classmethod
    def _safe_url_to_the_letter(cls, value: str) -> str:
        if value.strip():
            _checked_url(value.strip())
        return value.strip()  # tokens are compared with it

    @field_validator("http_allowed_hosts")
    @classmethod
    def _hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for host in value:
            if not _HOST.fullmatch(host):
                raise ValueError(f"a host is a name and perhaps a port, as in `rules.example.com:8443`, not {host!r}")
        return tuple(host.lower() for host in value)

    @field_validator("http_allowed_origins")
    @classmethod
    def _origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            scheme, separator, host = origin.partition("://")
            if scheme not in ("http", "https") or not separator or not _HOST.fullmatch(host):
                raise ValueError(f"an origin is scheme and host, as in `https://app.example.com`, not {origin!r}")
        return tuple(origin.lower() for origin in value)

    @field_validator(
        "openai_api_key",
        "cohere_api_key",
        "co_api_key",
        "supabase_key",
        "plain_supabase_key",
        "supabase_service_role_key",
        "supabase_access_token",
        "db_url",
        "http_token",
    )
    @classmethod
    def _trimmed(cls, value: SecretStr | None) -> SecretStr | None:
        return None if value is None else SecretStr(value.get_secret_value().strip())

    @model_validator(mode="after")
    def _keys_that_can_be_keys(self) -> Settings:
        for name in self._considered_keys():
            key: SecretStr | None = getattr(self, name)
            if key is not None and not _KEY.fullmatch(key.get_secret_value()):
                raise ValueError(
                    f"`{variable_of(name)}` holds a character that no key can hold, such as a space, a quotation mark "
                    "or a line break: set it to the key alone"
                )
        return self

    def _considered_keys(self) -> tuple[str, ...]:
        """Keys that this backend may use: a broken one of a vendor that is not asked stops nobody."""
        openai, cohere = ("openai_api_key",), ("cohere_api_key", "co_api_key")
        supabase = (
            () if self.store == "embedded" else ("supabase_key", "plain_supabase_key", "supabase_service_role_key")
        )
        embedding = {"auto": openai + cohere, "openai": openai, "cohere": cohere, "local": ()}[self.embedding_backend]
        reranking = cohere if self.rerank == "cohere" else ()
        return tuple(dict.fromkeys((*embedding, *reranking, *supabase, "supabase_access_token")))

    @field_validator("rules", mode="before")
    @classmethod
    def _split_paths(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        parts = [part.strip() for part in value.split(os.pathsep)]
        return () if value.strip().lower() in {"0", "off", "false", "no"} else tuple(part for part in parts if part)

    @field_validator("data_dir", "project_dir", "http_key_file", "rules", mode="before")
    @classmethod
    def _expanded(cls, value: Any) -> Any:
        parts = value if isinstance(value, (list, tuple)) else (value,)
        if any("${" in str(part) for part in parts):
            raise ValueError("it holds a `${...}` that nothing has expanded: write the path itself")
        return value

    @field_validator("project")
    @classmethod
    def _project_name(cls, value: str) -> str:
        return checked_project_id(value.strip()) if value.strip() else ""

    @model_validator(mode="after")
    def _address_and_key_of_a_team_store(self) -> Settings:
        if self.store == "embedded":
            return self
        if self.supabase_url and not self._supabase_secret():
            raise ValueError("`SYMMETRA_SUPABASE_URL` is set and `SYMMETRA_SUPABASE_KEY` is not: set the project's key")
        if self.supabase_key is not None and not (self.supabase_url or self.plain_supabase_url):
            raise ValueError(
                "`SYMMETRA_SUPABASE_KEY` is set and `SYMMETRA_SUPABASE_URL` is not: set the project's address, "
                "`https://REF.supabase.co`"
            )
        if self.store == "supabase" and self.supabase is None:
            raise ValueError(
                "`SYMMETRA_STORE` is 'supabase': set `SYMMETRA_SUPABASE_URL` and `SYMMETRA_SUPABASE_KEY` too"
            )
        return self

    def _supabase_secret(self) -> SecretStr | None:
        return self.supabase_key or self.supabase_service_role_key or self.plain_supabase_key

    @property
    def supabase(self) -> SupabaseAddress | None:
        """The team's project, where rules are kept there."""
        url, key = self.supabase_url or self.plain_supabase_url, self._supabase_secret()
        if self.store == "embedded" or not url or key is None:
            return None
        return SupabaseAddress(url, key)

    @property
    def openai_key(self) -> str:
        """OpenAI's key, or empty."""
        return self.openai_api_key.get_secret_value() if self.openai_api_key is not None else ""

    @property
    def cohere_key(self) -> str:
        """Cohere's key by either of its names, or empty."""
        key = self.cohere_api_key or self.co_api_key
        return key.get_secret_value() if key is not None else ""

    @property
    def traces_endpoint(self) -> str:
        """Where spans are sent, or empty where none are."""
        if self.otel_sdk_disabled.strip().lower() == "true" or self.otel_traces_exporter.strip().lower() == "none":
            return ""
        base = self.otel_endpoint.strip().rstrip("/")
        return self.otel_traces_endpoint.strip() or (f"{base}/v1/traces" if base else "")

    @cached_property
    def data_folder(self) -> Path:
        """The folder of the rule store, whether it exists or not."""
        return (self.data_dir or user_data_path("symmetra-mcp", appauthor=False)).expanduser().absolute()

    @cached_property
    def working_folder(self) -> Path:
        """The folder that stands for the project in hand."""
        hinted = os.environ.get("CLAUDE_PROJECT_DIR", "")
        if self.project_dir is None and hinted and not _is_unset(hinted) and Path(hinted).is_dir():
            return Path(hinted).absolute()
        return (self.project_dir or Path.cwd()).expanduser().absolute()


def load_settings(**overrides: Any) -> Settings:
    """Read the settings.

    Args:
        **overrides: Values that win over the environment.

    Raises:
        ConfigError: A value can't be used; the message names the variable and what it accepts.
    """
    try:
        return Settings(**overrides)
    except ValidationError as exc:
        raise ConfigError("; ".join(_explained(error) for error in exc.errors())) from None


def settings_with(variables: Mapping[str, str], **overrides: Any) -> Settings:
    """The settings with some variables set otherwise than the environment sets them.

    Args:
        variables: Values by the variable's name.
        **overrides: Values by the setting's name; these win.

    Raises:
        ConfigError: A name is no setting's, or a value can't be used.
    """
    settings = {variable_of(name): name for name in Settings.model_fields}
    for variable, value in variables.items():
        if variable not in settings:
            close = get_close_matches(variable.upper(), settings, 1)
            raise ConfigError(f"no setting `{variable[:60]}`" + (f": did you mean `{close[0]}`?" if close else ""))
        if not value.strip():
            raise ConfigError(f"`{variable}` is given no value, which sets nothing: leave it out, or give one")
    return load_settings(**{settings[name]: value for name, value in variables.items()}, **overrides)


def without_secret(variable: str, value: str) -> str:
    """A variable and its value as people may read it."""
    known = _FIELDS_BY_VARIABLE.get(variable, variable.removeprefix("SYMMETRA_").lower())
    return f"{variable}={'…' if known in _SAID_WITHOUT_VALUE - {'project'} else value}"


def load_project_settings(project_ref: str) -> Settings:
    """Settings whose store is a certain Supabase project.

    Args:
        project_ref: The project's twenty letters.

    Raises:
        ConfigError: No project is called so, the settings mean another one, or there is no key.
    """
    if not _REF.fullmatch(project_ref):
        raise ConfigError(f"--project-id: a Supabase project has 20 lower-case letters, not {project_ref[:40]!r}")
    given = load_settings(store="embedded")
    url = given.supabase_url or given.plain_supabase_url
    if not url:
        return load_settings(store="supabase", supabase_url=f"https://{project_ref}.supabase.co")
    meant = SupabaseAddress(url, SecretStr("")).project_ref
    if meant and meant != project_ref:
        raise ConfigError(
            f"--project-id means {project_ref!r} and `SYMMETRA_SUPABASE_URL` means {meant!r}, so nothing was changed: "
            "give those of one project"
        )
    return load_settings(store="supabase")


def _field_named(name: str) -> str:
    """The field of a name that a source gives: its own, or its variable's where that has no prefix."""
    return _FIELDS_BY_VARIABLE.get(name, name)


def variable_of(setting: str) -> str:
    """The environment variable of a setting."""
    field = Settings.model_fields.get(setting)
    alias = field.validation_alias if field is not None else None
    return alias if isinstance(alias, str) else f"SYMMETRA_{setting.upper()}"


def checked_project_id(value: str) -> str:
    """A project's name, as ids and resource addresses need it.

    Raises:
        ValueError: It holds something else than letters, digits, `.`, `_` and `-`.
    """
    if not _PROJECT_ID.fullmatch(value):
        raise ValueError(f"a project's name is up to 100 letters, digits, `.`, `_` or `-`, not {value[:40]!r}")
    return value


def _env_file_values() -> Mapping[str, str | None]:
    """What `.env` in the working directory sets, as it stands there, under names in lower case."""
    path = Path(_ENV_FILE)
    if not (path.is_file() or path.is_fifo()):
        return {}
    try:
        content = path.read_bytes()
        text = content.decode("utf-8-sig")
    except OSError as exc:
        raise ConfigError(f"the file `.env` in the working directory can't be read: {exc.strerror}") from None
    except UnicodeDecodeError:
        if _may_hold_a_setting(content):
            raise ConfigError("the file `.env` in the working directory is not UTF-8 text: save it as UTF-8") from None
        return {}
    values = dotenv_values(stream=io.StringIO(text, newline=None), interpolate=False)
    return {name.lower(): value for name, value in values.items() if value}


def _may_hold_a_setting(content: bytes) -> bool:
    """Whether a file that is no UTF-8 names one of our variables, in an encoding of one byte or of two."""
    letters = content.replace(b"\0", b"").upper()
    return any(variable_of(name).encode() in letters for name in Settings.model_fields)


def _checked_url(value: str) -> str:
    """An address that a key may be sent to.

    Raises:
        ValueError: No such address; the message does not hold it where it may hold a secret.
    """
    try:
        url = urlsplit(value)
        host = url.hostname or ""
        _ = url.port
    except ValueError:
        raise ValueError("this is no URL") from None
    if url.scheme not in ("http", "https") or not host:
        raise ValueError("an address begins with `https://`, or with `http://` inside the own network")
    if url.username is not None or url.password is not None or url.query or url.fragment:
        raise ValueError("the address holds a user's name, a password or a query: secrets belong in the key's variable")
    if url.scheme == "http" and not _PRIVATE_HOST.fullmatch(host):
        raise ValueError(f"a key would travel to {host!r} unencrypted: use `https://`")
    return value.rstrip("/")


_FIELDS_BY_VARIABLE = {
    field.validation_alias: name
    for name, field in Settings.model_fields.items()
    if isinstance(field.validation_alias, str)
}


def _is_unset(value: Any) -> bool:
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    return isinstance(value, str) and (not value.strip() or bool(_UNEXPANDED.fullmatch(value.strip())))


_SAID_WITHOUT_VALUE = frozenset(
    {
        "project",
        "openai_api_key",
        "cohere_api_key",
        "co_api_key",
        "openai_base_url",
        "co_api_url",
        "supabase_url",
        "supabase_key",
        "supabase_service_role_key",
        "supabase_access_token",
        "supabase_api_url",
        "plain_supabase_url",
        "plain_supabase_key",
        "db_url",
        "http_token",
        "http_issuer",
        "http_jwks_url",
        "http_url",
        "http_allowed_hosts",
        "http_allowed_origins",
    }
)
"""Settings whose value is not repeated: the message holds it already, or nobody must see it."""


def _explained(error: Any) -> str:
    problem = str(error["msg"]).removeprefix("Value error, ")
    if not error["loc"]:
        return problem
    name = _field_named(str(error["loc"][0]))
    variable = variable_of(name)
    value = error.get("input")
    got = f" (got {value[:40]!r})" if isinstance(value, str) and name not in _SAID_WITHOUT_VALUE else ""
    return f"`{variable}`: {problem[0].lower()}{problem[1:]}{got}"

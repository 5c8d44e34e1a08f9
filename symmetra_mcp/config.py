"""Settings, from the environment and then from `.env`; no other module reads either."""

from __future__ import annotations

import os
import re
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from platformdirs import user_data_path
from pydantic import Field, ValidationError, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict
from typing_extensions import override

from symmetra_mcp.errors import ConfigError

EmbeddingBackend = Literal["auto", "local"]
LogLevel = Literal["debug", "info", "warning", "error"]
BUNDLED_MODEL = "all-MiniLM-L6-v2"
_UNEXPANDED = re.compile(r"\$\{[^}]*\}")
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


class Settings(BaseSettings):
    """Everything that can be set, each by the environment variable `SYMMETRA_` + its name in capitals.

    An empty value and a `${VARIABLE}` that no shell has expanded count as not set: editors hand on both.
    """

    model_config = SettingsConfigDict(
        env_prefix="SYMMETRA_",
        env_file=".env",
        env_file_encoding="utf-8",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
    )

    embedding_backend: EmbeddingBackend = Field(default="auto", description="Which provider embeds: `auto` or `local`.")
    embedding_model: str = Field(
        default=BUNDLED_MODEL, description="Model of the local provider: the bundled `all-MiniLM-L6-v2`."
    )
    data_dir: Path | None = Field(
        default=None, description="Folder of the rule store. Default: the user's data folder of the system."
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
    log_level: LogLevel = Field(default="warning", description="What is logged to stderr: debug, info, warning, error.")

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
        del file_secret_settings
        return tuple(_WithoutUnset(settings_cls, source) for source in (init_settings, env_settings, dotenv_settings))

    @field_validator("embedding_backend", "log_level", mode="before")
    @classmethod
    def _lower(cls, value: Any) -> Any:
        return value.strip().lower() if isinstance(value, str) else value

    @field_validator("embedding_model")
    @classmethod
    def _known_model(cls, value: str) -> str:
        name = value.strip().removeprefix("sentence-transformers/")
        if name != BUNDLED_MODEL:
            raise ValueError(f"the local provider has one model, {BUNDLED_MODEL!r}")
        return name

    @field_validator("rules", mode="before")
    @classmethod
    def _split_paths(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        parts = [part.strip() for part in value.split(os.pathsep)]
        return () if value.strip().lower() in {"0", "off", "false", "no"} else tuple(part for part in parts if part)

    @field_validator("project")
    @classmethod
    def _project_name(cls, value: str) -> str:
        return checked_project_id(value.strip()) if value.strip() else ""

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
    except UnicodeDecodeError:
        raise ConfigError("the file `.env` in the working directory is not UTF-8 text: save it as UTF-8") from None


def checked_project_id(value: str) -> str:
    """A project's name, as ids and resource addresses need it.

    Raises:
        ValueError: It holds something else than letters, digits, `.`, `_` and `-`.
    """
    if not _PROJECT_ID.fullmatch(value):
        raise ValueError(f"a project's name is up to 100 letters, digits, `.`, `_` or `-`, not {value[:40]!r}")
    return value


def _is_unset(value: Any) -> bool:
    return isinstance(value, str) and (not value.strip() or bool(_UNEXPANDED.fullmatch(value.strip())))


def _explained(error: Any) -> str:
    name = str(error["loc"][0]) if error["loc"] else ""
    problem = str(error["msg"]).removeprefix("Value error, ")
    problem = problem[0].lower() + problem[1:]
    value = error.get("input")
    got = f" (got {value[:40]!r})" if isinstance(value, str) and name not in {"project"} else ""
    return f"`SYMMETRA_{name.upper()}`: {problem}{got}"

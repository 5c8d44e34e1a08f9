"""Which database the settings lead to, for work that a project's key can't do."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pydantic import SecretStr

from symmetra_mcp.config import Settings, SupabaseAddress
from symmetra_mcp.errors import ConfigError

if TYPE_CHECKING:
    from symmetra_mcp.stores.schema_database import SchemaDatabase

_DASHBOARD = "https://supabase.com/dashboard/project"


def open_database(
    settings: Settings, project_id: str = "", on_notice: Callable[[str], None] | None = None
) -> SchemaDatabase:
    """The database that the settings lead to, not yet connected.

    Args:
        settings: Where its connection string, or a token, is.
        project_id: The project that must be meant, or empty.
        on_notice: Called with what a database server has to say while it works.

    Raises:
        ConfigError: No way leads to a database, or two settings mean two projects.
    """
    from symmetra_mcp.stores.schema_api import PROJECT_REF, ManagementApi
    from symmetra_mcp.stores.schema_direct import DirectDatabase

    if project_id and not PROJECT_REF.fullmatch(project_id):
        raise ConfigError(f"--project-id: a Supabase project has 20 lower-case letters, not {project_id[:40]!r}")
    direct = None
    if settings.db_url is not None:
        direct = DirectDatabase(settings.db_url.get_secret_value(), on_notice=on_notice)
    meant = {
        "--project-id": project_id,
        "SYMMETRA_DB_URL": direct.project_ref if direct is not None else "",
        "SYMMETRA_SUPABASE_URL": _ref_of_address(settings),
    }
    refs = {name: ref for name, ref in meant.items() if ref}
    if len(set(refs.values())) > 1:
        told = ", ".join(f"{name} means {ref!r}" for name, ref in refs.items())
        raise ConfigError(f"these are different projects, so nothing was changed: {told}. Give those of one project")
    ref = next(iter(refs.values()), "")
    if direct is not None:
        return direct
    if settings.supabase_access_token is None:
        raise ConfigError(_three_ways(ref))
    if not ref:
        raise ConfigError("`SUPABASE_ACCESS_TOKEN` is set: name the project too, by --project-id REF, its 20 letters")
    return ManagementApi(settings.supabase_access_token.get_secret_value(), ref, api_url=settings.supabase_api_url)


def _ref_of_address(settings: Settings) -> str:
    if settings.supabase is not None:
        return settings.supabase.project_ref
    return SupabaseAddress(settings.supabase_url or settings.plain_supabase_url, SecretStr("")).project_ref


def _three_ways(ref: str) -> str:
    project = f"{_DASHBOARD}/{ref or '_'}"
    return (
        "no way leads to the database: a project's key reads and writes rules, and can't change the schema. Either:\n"
        f"  - set SYMMETRA_DB_URL to the connection string ({project}?showConnect=true, Session pooler)\n"
        "  - set SUPABASE_ACCESS_TOKEN to a personal access token (https://supabase.com/dashboard/account/tokens)"
        f"{'' if ref else ' and give --project-id REF'}\n"
        f"  - run `symmetra-mcp schema print`, paste what it writes into {project}/sql/new and run it there"
    )

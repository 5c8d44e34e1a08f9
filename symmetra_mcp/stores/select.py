"""Where rules are kept: on this machine, or in the team's database."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from symmetra_mcp.errors import ConfigError

if TYPE_CHECKING:
    from symmetra_mcp.config import Settings
    from symmetra_mcp.stores.base import RuleStore

COPIES_FOLDER = "copies"


def chosen_store(settings: Settings) -> RuleStore:
    """The store that the settings choose."""
    return embedded_store(settings) if settings.supabase is None else team_store(settings, with_copy=settings.mirror)


def embedded_store(settings: Settings) -> RuleStore:
    """The store on this machine, whatever else is set."""
    from symmetra_mcp.stores.sqlite import SqliteStore

    return SqliteStore(settings.data_folder)


def team_store(settings: Settings, *, with_copy: bool = False) -> RuleStore:
    """The team's store.

    Args:
        settings: Name it.
        with_copy: Keep a copy on this machine that answers while it can't be reached.

    Raises:
        ConfigError: They don't.
    """
    address = settings.supabase
    if address is None:
        raise ConfigError(
            "no team's store is set: set `SYMMETRA_SUPABASE_URL` to the project's address, `https://REF.supabase.co`, "
            "and `SYMMETRA_SUPABASE_KEY` to its key"
        )
    from symmetra_mcp.stores.supabase import SupabaseStore

    team = SupabaseStore(address)
    if not with_copy:
        return team
    from symmetra_mcp.stores.mirror import MirroredStore
    from symmetra_mcp.stores.sqlite import SqliteStore

    # By address and key: what one key may read is not another's to see.
    name = hashlib.sha256(f"{address.url}\0{address.key.get_secret_value()}".encode()).hexdigest()[:16]
    return MirroredStore(team, SqliteStore(settings.data_folder / COPIES_FOLDER / name))

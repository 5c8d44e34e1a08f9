"""Another database to run tests on, by environment variables. Read at import: tests see none of them."""

from __future__ import annotations

import os

REAL_PROJECT = {name: os.environ.get(f"SYMMETRA_TEST_SUPABASE_{name}", "") for name in ("URL", "KEY", "DB_URL")}
"""Address, secret key and connection string of a real Supabase project."""
BINARIES = os.environ.get("SYMMETRA_TEST_PG_BIN", "")
"""Folder of the programs of another version of Postgres, which has pgvector."""

"""A real Supabase project to run tests against, by environment variables. Read at import: tests see none of them."""

from __future__ import annotations

import os

REAL_PROJECT = {name: os.environ.get(f"SYMMETRA_TEST_SUPABASE_{name}", "") for name in ("URL", "KEY", "DB_URL")}

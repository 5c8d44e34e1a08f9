"""`python -m symmetra_mcp` and the `symmetra-mcp` command: the server without a detour, the command line otherwise."""

from __future__ import annotations

import os


def main() -> None:
    """Serve over stdio when no command is given; else run the command."""
    # Two BLAS threads stall each other for tens of milliseconds on a busy machine; the libraries read these at import.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from symmetra_mcp.cli import main as run_command

    run_command()


if __name__ == "__main__":
    main()

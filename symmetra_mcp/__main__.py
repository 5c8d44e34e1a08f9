"""`python -m symmetra_mcp` and the `symmetra-mcp` command: the server without a detour, the command line otherwise."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def main() -> None:
    """Serve over stdio when no command is given; else run the command."""
    flags = _flags_of_serving(sys.argv[1:])
    front = None
    if flags is not None:
        from symmetra_mcp.stdio.front import open_front

        front = open_front(flags)  # before anything can print, or takes its time
    # Two BLAS threads stall each other for tens of milliseconds on a busy machine; the libraries read these at import.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if front is not None and flags is not None:
        from symmetra_mcp.stdio.start import run

        run(front, flags)
    from symmetra_mcp.cli import main as run_command

    run_command()


def _flags_of_serving(words: list[str]) -> dict[str, Any] | None:
    """Settings that the command line gives for serving over stdio; `None` for other lines, and one with a mistake."""
    if words and words[0] != "serve":
        return None
    flags: dict[str, Any] = {}
    rest = iter(words[1:])
    for word in rest:
        name, equals, value = word.partition("=")
        if word in ("--read-only", "--allow-writes"):
            flags[word[2:].replace("-", "_")] = True
        elif name == "--tools":
            names = value if equals else next(rest, "")
            flags["tools"] = tuple(part.strip() for part in names.split(",") if part.strip())
            if not flags["tools"]:
                return None
        else:
            return None
    return flags


if __name__ == "__main__":
    main()

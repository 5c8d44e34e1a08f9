"""Run the commands of README.md, so that what it tells people to type is what is tested.

A fenced block is named by the comment before it: `<!-- command: run -->`, `<!-- command: test -->`.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).resolve().parents[1] / "README.md"
_BLOCK = re.compile(r"<!-- command: (\w+) -->\n+```\w*\n(.*?)```", re.DOTALL)


def commands() -> dict[str, str]:
    """The named blocks of README.md."""
    return dict(_BLOCK.findall(README.read_text("utf-8")))


def main() -> int:
    """Run one block, or print it."""
    found = commands()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=sorted(found))
    parser.add_argument("--show", action="store_true", help="print the block; run nothing")
    arguments = parser.parse_args()
    script = found[arguments.name]
    if arguments.show:
        print(script, end="")
        return 0
    print(f"$ {script}", end="", file=sys.stderr, flush=True)
    return subprocess.run(["bash", "-euo", "pipefail", "-c", script], cwd=README.parent, check=False).returncode


if __name__ == "__main__":
    raise SystemExit(main())

"""`python -m loopback`: the vendor as a process of its own, until it is interrupted.

Prints `ready <url>` once it listens. Every field of `Settings` with one plain value is an option; faults are set by
`POST /_ctl`, such as `{"faults": [{"fault": "hang", "probability": 0.01, "target": "batch"}]}`.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from typing import get_args

from loopback.limits import RetryAfter
from loopback.state import Settings
from loopback.vectors import VectorKind
from loopback.vendor import LoopbackVendor


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until SIGINT or SIGTERM."""
    chosen = vars(_parser().parse_args(arguments))
    interrupted = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: interrupted.set())
    with LoopbackVendor(**chosen) as vendor:
        sys.stdout.write(f"ready {vendor.url}\n")
        sys.stdout.flush()
        interrupted.wait()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m loopback", description=(__doc__ or "").partition("\n")[0])
    default = Settings()

    def option(name: str, kind: Callable[[str], object], **extra: object) -> None:
        flag = f"--{name.replace('_', '-')}"
        parser.add_argument(flag, type=kind, default=getattr(default, name), **extra)  # type: ignore[arg-type]

    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    for name in ("openai_requests_per_minute", "openai_tokens_per_minute", "cohere_inputs_per_minute"):
        option(name, _limit, help="a number, or `none`")
    for name in ("capacity_s", "fault_retry_after_s", "latency_s", "latency_sigma", "latency_per_token_s"):
        option(name, float)
    for name in ("recent_requests", "seed", "max_concurrency"):
        option(name, int)
    for name in ("openai_retry_after", "cohere_retry_after"):
        option(name, str, choices=get_args(RetryAfter))
    option("vectors", str, choices=get_args(VectorKind))
    parser.add_argument("--keys", nargs="+", default=None, help="keys that are taken; any without it")
    parser.add_argument("--gzip", action="store_true")
    return parser


def _limit(text: str) -> float | None:
    return None if text == "none" else float(text)


if __name__ == "__main__":
    main()

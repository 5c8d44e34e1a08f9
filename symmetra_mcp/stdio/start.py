"""A server from its first message to its end."""

from __future__ import annotations

import logging
import os
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn

from symmetra_mcp.config import load_settings
from symmetra_mcp.errors import ConfigError, ProviderError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from symmetra_mcp.config import Settings
    from symmetra_mcp.providers.local import LocalProvider
    from symmetra_mcp.stdio.front import Front

_FLUSH_S = 0.5


def run(front: Front, flags: Mapping[str, Any]) -> NoReturn:
    """Serve until the client is gone, and end the process: with 0, or with 1 where it can't start.

    Args:
        front: Has the client's pipes, and answers already.
        flags: Settings that the command line gave.
    """
    if front.wire.is_terminal:
        sys.stderr.write("symmetra-mcp serves MCP over stdio: a client talks to it. Ctrl-C ends it.\n")
    code = 0
    try:
        settings = load_settings(**flags)  # tells what is wrong before the SDK is imported
        # The SDK would take Rich, which draws boxes around tracebacks: editors keep logs line by line.
        logging.basicConfig(level=settings.log_level.upper(), format="%(levelname)s %(name)s: %(message)s")
        bundled = _bundled_model(settings, front)
        from symmetra_mcp.server import serve

        serve(settings, front, bundled)
    except ConfigError as exc:
        front.fail(str(exc))
        sys.stderr.write(f"Error: {exc}\n")
        code = 1
    except BaseException:
        front.fail("symmetra-mcp has failed: its log, which your editor keeps, tells why")
        sys.excepthook(*sys.exc_info())
        code = 1
    # Everything is closed and committed. What Python would still do takes half a second, and waits for threads that may
    # hang; a client that closes its end gives two seconds before it kills.
    front.wire.finish(_FLUSH_S)
    sys.stderr.flush()
    os._exit(code)


def _bundled_model(settings: Settings, front: Front) -> LocalProvider:
    """The bundled model; where searches will need it, it is loaded while the SDK is imported, on the other core.

    Not before the client has its tools: nothing heavy may delay them.
    """
    from symmetra_mcp.providers.local import LocalProvider
    from symmetra_mcp.providers.select import chooses_bundled

    bundled = LocalProvider()

    def load() -> None:
        with suppress(ProviderError):  # whoever needs it is told
            bundled.load()

    if chooses_bundled(settings):
        front.when_listed(threading.Thread(target=load, name="model", daemon=True).start)
    return bundled

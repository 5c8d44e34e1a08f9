"""What counts requests to vendors: the usage log, as providers and re-rankers call it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from anyio import to_thread

from symmetra_mcp.providers.prices import price_of
from symmetra_mcp.usage import Reservation, UsageLog, UsageRow

if TYPE_CHECKING:
    from symmetra_mcp.config import Settings
    from symmetra_mcp.spaces import EmbeddingSpace
    from symmetra_mcp.types import InputType


@dataclass(frozen=True, slots=True)
class UsageReport:
    """What vendors cost.

    Attributes:
        rows: By month, provider, model and purpose, oldest month first.
        spent_usd: Known cost of the present month over all providers.
        limit_usd: What may be spent in a month, or `None`.
        problem: Why the figures may lack something; empty where they don't.
    """

    rows: Sequence[UsageRow]
    spent_usd: float
    limit_usd: float | None
    problem: str


def usage_report(log: UsageLog, limit_usd: float | None, *, all_months: bool = False) -> UsageReport:
    """Read a usage log: the present month, or all of them."""
    rows = [row for month in log.months() for row in log.month_totals(month)] if all_months else log.month_totals()
    return UsageReport(rows, log.spent_usd(), limit_usd, log.problem)


class UsageMeter:
    """Counts the requests of one model in a log, under the settings' price and limit.

    Attributes:
        price_usd_per_million: US dollars for a million tokens, or `None` where no price is known.
    """

    def __init__(self, log: UsageLog, space: EmbeddingSpace, settings: Settings) -> None:
        self._log = log
        self._space = space
        self._limit_usd = settings.spending_limit
        self.price_usd_per_million = price_of(
            space.provider, space.model, override=settings.embedding_price, variant=space.variant
        )

    async def reserve(self, input_type: InputType, texts: int, tokens: int) -> Reservation:
        """Count a request by its estimate.

        Raises:
            SpendingLimitError: It would pass the limit.
        """
        return await to_thread.run_sync(
            partial(
                self._log.reserve,
                self._space.provider,
                self._space.model,
                input_type,
                texts,
                tokens,
                self.price_usd_per_million,
                self._limit_usd,
            )
        )

    async def settle(self, reservation: Reservation, tokens: int) -> None:
        """Count what the vendor says instead."""
        await to_thread.run_sync(self._log.settle, reservation, tokens)

    async def cancel(self, reservation: Reservation) -> None:
        """Count nothing: the vendor refused it."""
        await to_thread.run_sync(self._log.cancel, reservation)


class RerankMeter:
    """Counts the requests of one re-ranking model in a log, under the settings' price and limit."""

    def __init__(self, log: UsageLog, provider: str, model: str, settings: Settings) -> None:
        self._log = log
        self._provider = provider
        self._model = model
        self._price = settings.rerank_price
        self._limit_usd = settings.spending_limit

    async def reserve(self, documents: int, tokens: int, units: int) -> Reservation:
        """Count a request by its estimate.

        Args:
            documents: How many.
            tokens: Of all of them and the question.
            units: Searches, where the model is billed by those; 0 where it is by tokens.

        Raises:
            SpendingLimitError: It would pass the limit.
        """
        return await to_thread.run_sync(
            partial(
                self._log.reserve,
                self._provider,
                self._model,
                "rerank",
                documents,
                tokens,
                None if units else self._price,
                self._limit_usd,
                units=units,
                price_usd_per_thousand_units=self._price if units else None,
            )
        )

    async def settle(self, reservation: Reservation, *, tokens: int | None, units: int | None) -> None:
        """Count what the vendor says instead, as far as it does."""
        billed = reservation.tokens if tokens is None else tokens
        await to_thread.run_sync(partial(self._log.settle, reservation, billed, units=units))

    async def cancel(self, reservation: Reservation) -> None:
        """Count nothing: the vendor refused it."""
        await to_thread.run_sync(self._log.cancel, reservation)

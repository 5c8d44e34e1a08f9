"""What vendors cost: requests, tokens and money by month, and a limit that holds for all processes together.

A request is counted by its estimate before it is sent, and by the vendor's figure once that is known. A process that
dies in between leaves the estimate, so that a limit errs on the side of spending less.

Money is counted in whole picodollars, since the tokens of one query cost less than a microdollar and sums of floats
depend on their order.
"""

from __future__ import annotations

import math
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from symmetra_mcp.errors import SpendingLimitError
from symmetra_mcp.types import UsagePurpose
from symmetra_mcp.usage_file import Counts, Key, UnusableError, UsageFile, add_all, all_counts, picodollars_of

FILE_NAME = "usage.db"
REST_S = 30.0
"""How long the file is left alone after it could not be written, as a search should not wait for it each time."""
MOST_TOKENS = 100_000_000
"""Tokens of one request beyond which a figure is taken for a mistake: vendors take 300,000."""
MOST_UNITS = 1_000
"""Units of one request, likewise: a hundred documents are one."""
HIGHEST_PRICE = 10_000.0
"""US dollars for a million tokens, or 1,000 units, beyond which a price is taken for a mistake."""
PICODOLLARS = 10**12


@dataclass(frozen=True, slots=True)
class UsageRow:
    """What one model was used for in one month.

    Attributes:
        month: Calendar month in UTC, such as `2026-11`.
        provider: The vendor's name.
        model: The vendor's id of the model.
        purpose: What the vendor was asked for.
        requests: Requests that were billed, or may have been.
        texts: Texts in them.
        tokens: Tokens in them: the vendor's figure where it gave one, else the estimate.
        cost_usd: Cost of the tokens whose price was known when they were counted.
        tokens_unpriced: Tokens whose price was not known.
    """

    month: str
    provider: str
    model: str
    purpose: UsagePurpose
    requests: int
    texts: int
    tokens: int
    cost_usd: float
    tokens_unpriced: int


@dataclass(frozen=True, slots=True)
class UsageTotals:
    """Sums over usage rows; the attributes are those of `UsageRow`."""

    requests: int
    texts: int
    tokens: int
    cost_usd: float
    tokens_unpriced: int


@dataclass(frozen=True, slots=True)
class Reservation:
    """A request that is counted by its estimate.

    Attributes:
        month: The month it counts for, whenever the answer comes.
        provider: The vendor's name.
        model: The vendor's id of the model.
        purpose: What the vendor is asked for.
        texts: Texts in the request.
        tokens: The estimate.
        picodollars_per_token: Its price, or `None` where that is not known.
        units: The vendor's own units in the request, such as searches, where it bills by those; else 0.
        picodollars_per_unit: The price of one, or `None` where that is not known.
        file_id: The file that counts it; empty where only this process does.
    """

    month: str
    provider: str
    model: str
    purpose: UsagePurpose
    texts: int
    tokens: int
    picodollars_per_token: int | None
    units: int = 0
    picodollars_per_unit: int | None = None
    file_id: str = ""

    @property
    def is_priced(self) -> bool:
        """Whether it is known what the request costs."""
        return (self.picodollars_per_unit if self.units else self.picodollars_per_token) is not None


class UsageLog:
    """Counts requests in a file that all processes share.

    Threads may share a log. Where the file can't be written, requests are counted in memory until it can be, `problem`
    says so, and requests under a spending limit are refused: a limit that is not counted is none. A damaged file is set
    aside and begun anew.
    """

    def __init__(self, path: Path, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        """Prepare; nothing is opened.

        Args:
            path: The file, usually `FILE_NAME` in the data folder; made with its folder when first needed.
            clock: The present time, with its time zone: decides the month.
        """
        self._file = UsageFile(path)
        self._clock = clock
        self._lock = threading.Lock()
        self._waiting: dict[Key, Counts] = {}
        self._problem = ""
        self._rest_until = -math.inf

    @property
    def problem(self) -> str:
        """Why requests are counted in memory alone, or that a damaged file was set aside; empty where all is well."""
        return self._problem or self._file.notice

    def reserve(
        self,
        provider: str,
        model: str,
        purpose: UsagePurpose,
        texts: int,
        tokens: int,
        price_usd_per_million: float | None,
        limit_usd: float | None,
        *,
        units: int = 0,
        price_usd_per_thousand_units: float | None = None,
    ) -> Reservation:
        """Count a request that is about to be sent. Settle or cancel what comes back, once; or leave it counted.

        Args:
            provider: The vendor's name.
            model: The vendor's id of the model.
            purpose: What the vendor is asked for.
            texts: Texts in the request.
            tokens: Estimate of its tokens; a limit holds as far as this is not too low.
            price_usd_per_million: US dollars for a million tokens, or `None` where that is not known.
            limit_usd: What may be spent in this month over all providers, or `None` for no limit.
            units: The vendor's own units, such as searches, where it bills by those instead of tokens.
            price_usd_per_thousand_units: US dollars for 1,000 of them, or `None` where that is not known.

        Raises:
            SpendingLimitError: The request would pass the limit, or can't be measured against it: its price is not
                known, or the file can't be written. It was not counted.
            ValueError: Tokens or a price below zero or beyond all sense.
        """
        if not 0 <= tokens <= MOST_TOKENS or texts < 0 or not 0 <= units <= MOST_UNITS:
            raise ValueError(f"no request has {texts} texts, {tokens} tokens and {units} units")
        request = Reservation(
            self._month(),
            provider,
            model,
            purpose,
            texts,
            tokens,
            _picodollars_each(price_usd_per_million, 1_000_000),
            units,
            _picodollars_each(price_usd_per_thousand_units, 1_000),
        )
        if limit_usd is None:
            return replace(request, file_id=self._add(_key_of(request), lambda _: _counts_of(request, tokens, units)))
        if not request.is_priced:
            raise self._refused(request, limit_usd, _price_unknown(request, limit_usd))
        try:
            file_id = self._add(
                _key_of(request),
                lambda _: _counts_of(request, tokens, units),
                check=lambda connection: _check_limit(connection, request, limit_usd),
            )
        except UnusableError as exc:
            raise self._refused(request, limit_usd, _not_countable(exc, request, limit_usd)) from exc
        return replace(request, file_id=file_id)

    def settle(self, reservation: Reservation, tokens: int, *, units: int | None = None) -> None:
        """Replace the estimate by the vendor's own figure, even if that passes the limit: it is billed.

        Args:
            reservation: From `reserve`.
            tokens: What the vendor bills. A figure beyond all sense leaves the estimate.
            units: Likewise, where it bills by units of its own and says how many.
        """
        units = reservation.units if units is None else units
        if 0 <= tokens <= MOST_TOKENS and 0 <= units <= MOST_UNITS:
            self._correct(reservation, _counts_of(reservation, tokens, units))

    def cancel(self, reservation: Reservation) -> None:
        """Count nothing: the request was not billed."""
        self._correct(reservation, Counts())

    def month_totals(self, month: str | None = None) -> list[UsageRow]:
        """Usage of a month by provider, model and purpose.

        Args:
            month: Such as `2026-11`; the present month in UTC where it is left out.
        """
        month = self._month() if month is None else month
        return [_row(key, counts) for key, counts in sorted(self._counts().items()) if key[0] == month]

    def months(self) -> list[str]:
        """Months with usage, oldest first."""
        return sorted({key[0] for key in self._counts()})

    def spent_usd(self, month: str | None = None) -> float:
        """Known cost of a month over all providers, in US dollars; `month` as in `month_totals`."""
        month = self._month() if month is None else month
        return sum(counts.picodollars for key, counts in self._counts().items() if key[0] == month) / PICODOLLARS

    def close(self) -> None:
        """Close the file, after a last try to write what waits in memory. Safe to call twice."""
        with self._lock:
            if self._waiting:
                with suppress(UnusableError):
                    self._file.write(lambda connection, _: add_all(connection, self._waiting))
                    self._waiting.clear()
            self._file.close()

    def _month(self) -> str:
        return self._clock().astimezone(UTC).strftime("%Y-%m")

    def _correct(self, reservation: Reservation, billed: Counts) -> None:
        """Make what is counted for a reservation `billed`, also in a file that was begun after it."""

        def change(file_id: str) -> Counts:
            replaced = bool(file_id and reservation.file_id) and file_id != reservation.file_id
            return billed if replaced else billed - _counts_of(reservation, reservation.tokens, reservation.units)

        self._add(_key_of(reservation), change)

    def _add(
        self, key: Key, change: Callable[[str], Counts], *, check: Callable[[sqlite3.Connection], None] | None = None
    ) -> str:
        """Add to the file, with all that waits for it, or without `check` to what waits.

        Args:
            key: Which row.
            change: What to add, given the id of the file, or an empty string for memory.
            check: Raises where the file as it is forbids the change.

        Returns:
            The id of the file, or an empty string for memory.

        Raises:
            UnusableError: The file can't be written, and there is a `check`.
        """

        def write(connection: sqlite3.Connection, file_id: str) -> str:
            add_all(connection, self._waiting)
            if check is not None:
                check(connection)
            add_all(connection, {key: change(file_id)})
            return file_id

        with self._lock:
            if check is not None or time.monotonic() >= self._rest_until:
                try:
                    file_id = self._file.write(write)
                except UnusableError as exc:
                    self._note(exc)
                    if check is not None:
                        raise
                else:
                    self._waiting.clear()
                    self._problem, self._rest_until = "", -math.inf
                    return file_id
            self._waiting[key] = self._waiting.get(key, Counts()) + change("")
            return ""

    def _counts(self) -> dict[Key, Counts]:
        """Everything counted, rows of nothing left out."""
        with self._lock:
            try:
                counts = self._file.read(all_counts) or {}
            except UnusableError as exc:
                self._note(exc)
                counts = {}
            for key, waiting in self._waiting.items():
                counts[key] = counts.get(key, Counts()) + waiting
        return {key: found for key, found in counts.items() if found.requests > 0}

    def _note(self, exc: UnusableError) -> None:
        self._problem = f"{exc}. Until then this process counts in memory alone, and loses the count when it ends"
        self._rest_until = time.monotonic() + REST_S

    def _refused(self, request: Reservation, limit_usd: float, message: str) -> SpendingLimitError:
        spent_usd = self.spent_usd(request.month)
        return SpendingLimitError(
            message, provider=request.provider, model=request.model, spent_usd=spent_usd, limit_usd=limit_usd
        )


def summary(rows: Sequence[UsageRow]) -> UsageTotals:
    """Sums over rows, of one month or several."""
    return UsageTotals(
        requests=sum(row.requests for row in rows),
        texts=sum(row.texts for row in rows),
        tokens=sum(row.tokens for row in rows),
        cost_usd=math.fsum(row.cost_usd for row in rows),
        tokens_unpriced=sum(row.tokens_unpriced for row in rows),
    )


def _check_limit(connection: sqlite3.Connection, request: Reservation, limit_usd: float) -> None:
    """Compare the month's cost with the limit, inside the transaction that adds to it.

    Raises:
        SpendingLimitError: With this request it would pass the limit.
    """
    spent = picodollars_of(connection, request.month)
    cost = _counts_of(request, request.tokens, request.units).picodollars
    limit = round(limit_usd * PICODOLLARS) if math.isfinite(limit_usd) else limit_usd
    if cost == 0 or spent + cost <= limit:  # what costs nothing can't pass a limit, not even one that is passed
        return
    spent_usd = spent / PICODOLLARS
    raise SpendingLimitError(
        f"the spending limit stops this request: {_dollars(spent_usd)} of {_dollars(limit_usd)} are spent in "
        f"{request.month} (UTC), and it would cost {_dollars(cost / PICODOLLARS)} more. "
        f"Raise `SYMMETRA_SPENDING_LIMIT`, wait for the next month, or set {_way_out(request)}",
        provider=request.provider,
        model=request.model,
        spent_usd=spent_usd,
        limit_usd=limit_usd,
    )


def _way_out(request: Reservation) -> str:
    """The setting that has the vendor no longer asked."""
    return "`SYMMETRA_RERANK=off`" if request.purpose == "rerank" else "`SYMMETRA_EMBEDDING_BACKEND=local`"


def _price_unknown(request: Reservation, limit_usd: float) -> str:
    setting = "SYMMETRA_RERANK_PRICE" if request.purpose == "rerank" else "SYMMETRA_EMBEDDING_PRICE"
    unit = "1,000 searches" if request.units else "a million tokens"
    return (
        f"the spending limit of {_dollars(limit_usd)} can't be kept, as the price of {request.model!r} is not known: "
        f"set `{setting}` to its US dollars for {unit}"
    )


def _not_countable(problem: UnusableError, request: Reservation, limit_usd: float) -> str:
    return (
        f"the spending limit of {_dollars(limit_usd)} can't be kept, so nothing is sent: {problem}. Or unset "
        f"`SYMMETRA_SPENDING_LIMIT`, or set {_way_out(request)}"
    )


def _dollars(usd: float) -> str:
    """To the cent, or to the digits that a small amount needs."""
    digits = 2 if usd == 0 or usd >= 1 else min(12, 2 - math.floor(math.log10(usd)))
    return f"${usd:,.{digits}f}"


def _picodollars_each(price_usd: float | None, number: int) -> int | None:
    """The price of one where so many have a price."""
    if price_usd is None:
        return None
    if not 0 <= price_usd <= HIGHEST_PRICE:
        raise ValueError(f"{price_usd} US dollars for {number:,} is no price")
    return round(price_usd * PICODOLLARS / number)


def _key_of(reservation: Reservation) -> Key:
    return (reservation.month, reservation.provider, reservation.model, reservation.purpose)


def _counts_of(reservation: Reservation, tokens: int, units: int) -> Counts:
    if reservation.units:
        amount, rate = units, reservation.picodollars_per_unit
    else:
        amount, rate = tokens, reservation.picodollars_per_token
    if rate is None:
        return Counts(1, reservation.texts, tokens, tokens_unpriced=tokens)
    return Counts(1, reservation.texts, tokens, amount * rate)


def _row(key: Key, counts: Counts) -> UsageRow:
    cost_usd = counts.picodollars / PICODOLLARS
    return UsageRow(*key, counts.requests, counts.texts, counts.tokens, cost_usd, counts.tokens_unpriced)

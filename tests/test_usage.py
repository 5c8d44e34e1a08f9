from __future__ import annotations

import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta, timezone
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from symmetra_mcp import usage, usage_file
from symmetra_mcp.errors import SpendingLimitError
from symmetra_mcp.usage import Reservation, UsageLog, UsageRow, UsageTotals, summary

NOVEMBER = datetime(2026, 11, 23, 12, tzinfo=UTC)
SMALL = 0.02
MILLION = 1_000_000
SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / usage.FILE_NAME


@pytest.fixture
def open_log(path: Path) -> Iterator[Callable[..., UsageLog]]:
    logs: list[UsageLog] = []

    def opened(where: Path = path, clock: Callable[[], datetime] = lambda: NOVEMBER) -> UsageLog:
        logs.append(UsageLog(where, clock=clock))
        return logs[-1]

    yield opened
    for log in logs:
        log.close()


@pytest.fixture
def log(open_log: Callable[..., UsageLog]) -> UsageLog:
    return open_log()


def ask(
    log: UsageLog, tokens: int = MILLION, *, price: float | None = SMALL, limit: float | None = None, texts: int = 1
) -> Reservation:
    return log.reserve("openai", "text-embedding-3-small", "query", texts, tokens, price, limit)


def usd(tokens: int) -> float:
    return tokens * 20_000 / usage.PICODOLLARS


def counted(log: UsageLog) -> UsageTotals:
    return summary(log.month_totals())


# Counting


def test_a_request_counts_by_its_estimate_until_it_is_settled(log: UsageLog) -> None:
    reservation = ask(log, 1000, texts=3)
    row = UsageRow("2026-11", "openai", "text-embedding-3-small", "query", 1, 3, 1000, 0.00002, 0)
    assert log.month_totals() == [row]
    log.settle(reservation, 1500)
    row = UsageRow("2026-11", "openai", "text-embedding-3-small", "query", 1, 3, 1500, 0.00003, 0)
    assert log.month_totals() == [row]


def test_a_cancelled_request_counts_nothing(log: UsageLog) -> None:
    kept, cancelled = ask(log, 10), ask(log, 1000)
    log.cancel(cancelled)
    assert counted(log) == UsageTotals(1, 1, 10, usd(10), 0)
    log.cancel(kept)
    assert log.month_totals() == []
    assert log.months() == []


def test_rows_are_kept_apart_by_provider_model_and_purpose(log: UsageLog) -> None:
    log.reserve("openai", "a", "query", 1, 10, SMALL, None)
    log.reserve("openai", "a", "document", 2, 20, SMALL, None)
    log.reserve("openai", "b", "query", 3, 30, SMALL, None)
    log.reserve("cohere", "a", "query", 4, 40, SMALL, None)
    found = [(row.provider, row.model, row.purpose, row.texts, row.tokens) for row in log.month_totals()]
    assert found == [
        ("cohere", "a", "query", 4, 40),
        ("openai", "a", "document", 2, 20),
        ("openai", "a", "query", 1, 10),
        ("openai", "b", "query", 3, 30),
    ]


def test_many_small_costs_sum_exactly(log: UsageLog) -> None:
    for _ in range(1000):
        ask(log, 7, price=0.13)
    assert log.spent_usd() == 0.00091


def test_tokens_without_a_price_are_counted_apart(log: UsageLog) -> None:
    ask(log, 100)
    reservation = ask(log, 40, price=None)
    assert counted(log) == UsageTotals(2, 2, 140, usd(100), 40)
    log.settle(reservation, 50)
    assert counted(log) == UsageTotals(2, 2, 150, usd(100), 50)


@pytest.mark.parametrize("tokens", [-1, 10**30], ids=["negative", "absurd"])
def test_a_senseless_figure_of_the_vendor_leaves_the_estimate(log: UsageLog, tokens: int) -> None:
    log.settle(ask(log, 100), tokens)
    assert counted(log).tokens == 100


@pytest.mark.parametrize("price", [-0.01, float("inf"), float("nan")])
def test_a_senseless_price_is_refused(log: UsageLog, price: float) -> None:
    with pytest.raises(ValueError, match="is no price"):
        ask(log, price=price)
    assert log.months() == []


def test_another_log_on_the_file_sees_the_counts_at_once(log: UsageLog, open_log: Callable[..., UsageLog]) -> None:
    ask(log, 10)
    other = open_log()
    ask(other, 20)
    assert counted(log) == counted(other)
    assert counted(other).tokens == 30


def test_making_and_reading_a_log_leaves_no_file(log: UsageLog, path: Path) -> None:
    assert log.month_totals() == []
    assert log.months() == []
    assert log.spent_usd() == 0
    assert log.problem == ""
    assert not path.parent.exists()


def test_a_closed_log_opens_again(log: UsageLog) -> None:
    ask(log, 10)
    log.close()
    log.close()
    ask(log, 10)
    assert counted(log).tokens == 20


# Months


def test_a_month_ends_at_midnight_utc(open_log: Callable[..., UsageLog]) -> None:
    now = datetime(2026, 11, 30, 23, 59, 59, tzinfo=UTC)
    log = open_log(clock=lambda: now)
    before = ask(log, MILLION, limit=0.03)
    with pytest.raises(SpendingLimitError):
        ask(log, MILLION, limit=0.03)
    now += timedelta(seconds=1)
    ask(log, MILLION, limit=0.03)
    log.settle(before, MILLION // 2)
    assert log.months() == ["2026-11", "2026-12"]
    assert log.spent_usd("2026-11") == 0.01
    assert log.spent_usd() == 0.02
    assert [row.month for row in log.month_totals()] == ["2026-12"]


def test_the_month_does_not_depend_on_the_clocks_time_zone(open_log: Callable[..., UsageLog]) -> None:
    east = timezone(timedelta(hours=9))
    log = open_log(clock=lambda: datetime(2026, 12, 1, 3, tzinfo=east))
    ask(log)
    assert log.months() == ["2026-11"]


# The limit


def test_the_limit_can_be_reached_but_not_passed(log: UsageLog) -> None:
    for _ in range(5):
        ask(log, MILLION, limit=0.1)
    with pytest.raises(SpendingLimitError) as caught:
        ask(log, 1, limit=0.1)
    assert (caught.value.spent_usd, caught.value.limit_usd) == (0.1, 0.1)
    assert (caught.value.provider, caught.value.model) == ("openai", "text-embedding-3-small")
    assert counted(log).requests == 5


def test_the_refusal_says_what_was_spent_what_it_would_cost_and_what_to_do(log: UsageLog) -> None:
    ask(log, 123 * MILLION // 2)
    with pytest.raises(SpendingLimitError) as caught:
        ask(log, 300, limit=1.23)
    assert str(caught.value) == (
        "the spending limit stops this request: $1.23 of $1.23 are spent in 2026-11 (UTC), and it would cost "
        "$0.00000600 more. Raise `SYMMETRA_SPENDING_LIMIT`, wait for the next month, or set "
        "`SYMMETRA_EMBEDDING_BACKEND=local`"
    )


def test_the_limit_counts_all_providers(log: UsageLog) -> None:
    log.reserve("cohere", "embed-v4.0", "document", 1, MILLION, 0.12, 0.13)
    with pytest.raises(SpendingLimitError, match=r"\$0\.120 of \$0\.130"):
        ask(log, MILLION, limit=0.13)


def test_what_settles_below_its_estimate_makes_room(log: UsageLog) -> None:
    reservation = ask(log, MILLION, limit=0.02)
    log.settle(reservation, MILLION // 2)
    ask(log, MILLION // 2, limit=0.02)
    assert log.spent_usd() == 0.02


def test_a_bill_above_the_estimate_is_counted_even_past_the_limit(log: UsageLog) -> None:
    log.settle(ask(log, MILLION, limit=0.02), 2 * MILLION)
    assert log.spent_usd() == 0.04
    with pytest.raises(SpendingLimitError, match=r"\$0\.0400 of \$0\.0200"):
        ask(log, 1, limit=0.02)


def test_a_free_request_passes_a_limit_that_is_reached(log: UsageLog) -> None:
    ask(log, MILLION)
    ask(log, 10, price=0.0, limit=0.0)
    with pytest.raises(SpendingLimitError):
        ask(log, 10, limit=0.0)


def test_a_limit_at_an_unknown_price_refuses_and_names_the_setting(log: UsageLog) -> None:
    ask(log, MILLION)
    with pytest.raises(SpendingLimitError, match="set `SYMMETRA_EMBEDDING_PRICE`") as caught:
        ask(log, 1, price=None, limit=5.0)
    assert caught.value.spent_usd == 0.02
    assert counted(log).requests == 1


# Many processes


def count_many(path: Path, number: int) -> None:
    log = UsageLog(path, clock=lambda: NOVEMBER)
    for i in range(200):
        reservation = log.reserve("openai", f"m{number % 3}", "document", 2, 100, SMALL, 1000.0 if i % 2 else None)
        if i % 10 == 9:
            log.cancel(reservation)
        else:
            log.settle(reservation, 90 + i % 7)
    assert log.problem == ""
    log.close()


def spend_all(path: Path, number: int) -> None:
    log = UsageLog(path, clock=lambda: NOVEMBER)
    passed = 0
    with suppress(SpendingLimitError):
        while True:
            log.reserve("openai", "m", "query", 1, 1000 + number, SMALL, 0.01)
            passed += 1
    log.close()


def run_together(work: Callable[[Path, int], None], path: Path) -> None:
    processes = [SPAWN.Process(target=work, args=(path, number)) for number in range(8)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 8


@pytest.mark.slow
def test_eight_processes_lose_no_count(path: Path, log: UsageLog) -> None:
    run_together(count_many, path)
    tokens = 8 * sum(90 + i % 7 for i in range(200) if i % 10 != 9)
    rows = log.month_totals()
    assert [(row.model, row.requests) for row in rows] == [("m0", 3 * 180), ("m1", 3 * 180), ("m2", 2 * 180)]
    assert summary(rows) == UsageTotals(8 * 180, 8 * 360, tokens, pytest.approx(usd(tokens)), 0)
    assert log.spent_usd() == usd(tokens)


@pytest.mark.slow
def test_racing_processes_stop_right_before_the_limit(path: Path, log: UsageLog) -> None:
    run_together(spend_all, path)
    assert 0.01 - usd(1007) < log.spent_usd() <= 0.01
    assert {row.purpose for row in log.month_totals()} == {"query"}


def test_threads_of_one_log_lose_no_count(log: UsageLog) -> None:
    def work() -> None:
        for _ in range(100):
            log.settle(ask(log, 10), 9)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counted(log) == UsageTotals(800, 800, 7200, usd(7200), 0)


def reserve_for_ever(path: Path, told: Connection) -> None:
    log = UsageLog(path, clock=lambda: NOVEMBER)
    settled = ask(log, 100)
    log.settle(settled, 50)
    while True:
        ask(log, 10)
        told.send(None)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_a_killed_process_leaves_its_reservations_counted(path: Path, log: UsageLog) -> None:
    heard, told = SPAWN.Pipe(duplex=False)
    process = SPAWN.Process(target=reserve_for_ever, args=(path, told))
    process.start()
    told.close()
    for _ in range(100):
        heard.recv()
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    reserved = 100
    with suppress(EOFError):
        while True:
            heard.recv()
            reserved += 1
    heard.close()
    totals = counted(log)
    assert totals.requests - 1 in (reserved, reserved + 1)  # it may die between the count and its telling
    assert totals.tokens == 50 + 10 * (totals.requests - 1)
    ask(log, 10)
    assert log.problem == ""
    assert list(path.parent.glob("*.damaged-*")) == []


# Damage

renames_open_files = pytest.mark.skipif(sys.platform == "win32", reason="Windows renames no open file")


def overwrite(path: Path) -> None:
    path.write_bytes(b"this is no database, and long enough to be looked at" * 100)


def scramble(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xa5" * (len(content) - 4096)
    path.write_bytes(content)


def drop_table(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TABLE usage")


def drop_id(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DELETE FROM file")


def miscount_free_pages(path: Path) -> None:
    """Damage that SQLite's own check finds, and no query."""
    content = bytearray(path.read_bytes())
    content[36:40] = (5).to_bytes(4, "big")
    path.write_bytes(content)


DAMAGES = [overwrite, scramble, drop_table, drop_id, miscount_free_pages]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("limit", [None, 1.0], ids=["unlimited", "limited"])
def test_a_damaged_file_is_set_aside_and_begun_anew(
    open_log: Callable[..., UsageLog], path: Path, damage: Callable[[Path], None], limit: float | None
) -> None:
    first = open_log()
    ask(first, 1000)
    first.close()
    damage(path)
    log = open_log()
    ask(log, 10, limit=limit)
    assert counted(log).tokens == 10
    (kept,) = path.parent.glob("usage.damaged-*.db")
    assert repr(str(kept)) in log.problem
    assert "a spending limit starts at 0" in log.problem


@renames_open_files
def test_damage_under_an_open_log_is_met_by_a_new_file(log: UsageLog, path: Path) -> None:
    reservation = ask(log, 1000)
    drop_table(path)
    assert log.month_totals() == []
    log.settle(reservation, 900)
    assert counted(log) == UsageTotals(1, 1, 900, usd(900), 0)
    assert len(list(path.parent.glob("usage.damaged-*.db"))) == 1


@renames_open_files
def test_a_request_reserved_before_the_file_was_replaced_is_cancelled_without_a_trace(
    log: UsageLog, open_log: Callable[..., UsageLog], path: Path
) -> None:
    reservation = ask(log, 1000)
    drop_table(path)
    ask(open_log(), 10)
    log.cancel(reservation)
    assert counted(log).tokens == 10


@renames_open_files
def test_a_log_follows_when_another_sets_the_file_aside(
    log: UsageLog, open_log: Callable[..., UsageLog], path: Path
) -> None:
    ask(log, 1000)
    for suffix in ("", "-wal", "-shm"):
        part = path.with_name(path.name + suffix)
        part.rename(path.with_name(f"aside.db{suffix}"))
    other = open_log()
    ask(other, 10)
    ask(log, 20)
    assert counted(log).tokens == counted(other).tokens == 30


# Files that can't be written


@pytest.fixture
def blocked(tmp_path: Path) -> Path:
    """A path that nobody can write, not even root: its folder is a file."""
    (tmp_path / "blocker").write_text("")
    return tmp_path / "blocker" / usage.FILE_NAME


def test_without_a_writable_folder_requests_are_counted_in_memory(
    open_log: Callable[..., UsageLog], blocked: Path
) -> None:
    log = open_log(blocked)
    log.settle(ask(log, 100), 90)
    log.cancel(ask(log, 100))
    assert counted(log) == UsageTotals(1, 1, 90, usd(90), 0)
    assert log.months() == ["2026-11"]
    assert repr(str(blocked)) in log.problem
    assert "`SYMMETRA_DATA_DIR`" in log.problem
    assert "counts in memory alone" in log.problem


def test_without_a_writable_folder_a_limit_refuses(open_log: Callable[..., UsageLog], blocked: Path) -> None:
    log = open_log(blocked)
    ask(log, MILLION)
    with pytest.raises(SpendingLimitError, match="can't be kept, so nothing is sent") as caught:
        ask(log, 1, limit=100.0)
    assert "`SYMMETRA_DATA_DIR`" in str(caught.value)
    assert caught.value.spent_usd == 0.02
    assert counted(log).requests == 1


def test_what_was_counted_in_memory_reaches_the_file_once_it_can_be_written(
    open_log: Callable[..., UsageLog], blocked: Path
) -> None:
    log = open_log(blocked)
    settled_later = ask(log, 1000)
    blocked.parent.unlink()
    ask(log, 10, limit=1.0)  # a limit asks the file each time
    assert log.problem == ""
    log.settle(settled_later, 900)
    assert counted(open_log(blocked)) == UsageTotals(2, 2, 910, usd(910), 0)


def test_what_was_counted_in_memory_counts_for_the_limit(open_log: Callable[..., UsageLog], blocked: Path) -> None:
    log = open_log(blocked)
    ask(log, MILLION)
    blocked.parent.unlink()
    with pytest.raises(SpendingLimitError, match=r"\$0\.0200 of \$0\.0300"):
        ask(log, MILLION, limit=0.03)
    assert counted(log).requests == 1


def test_closing_writes_what_was_counted_in_memory(open_log: Callable[..., UsageLog], blocked: Path) -> None:
    log = open_log(blocked)
    ask(log, 10)
    blocked.parent.unlink()
    log.close()
    assert counted(open_log(blocked)).tokens == 10


def test_a_file_that_failed_is_left_alone_for_a_while(
    open_log: Callable[..., UsageLog], blocked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(usage.time, "monotonic", lambda: now)
    log = open_log(blocked)
    ask(log, 10)
    blocked.parent.unlink()
    now += usage.REST_S - 1
    ask(log, 10)
    assert not blocked.exists()
    now += 1
    ask(log, 10)
    assert blocked.exists()
    assert counted(open_log(blocked)).tokens == 30


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage_file, "BUSY_TIMEOUT_S", 0.05)


@pytest.mark.usefixtures("impatient")
def test_a_file_that_another_process_holds_is_not_waited_for_for_ever(log: UsageLog, path: Path) -> None:
    ask(log, 10)
    log.close()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        ask(log, 10)
        assert "another process has held it" in log.problem
        with pytest.raises(SpendingLimitError, match="another process has held it"):
            ask(log, 10, limit=1.0)
        other.execute("ROLLBACK")
    ask(log, 10, limit=1.0)
    assert log.problem == ""
    assert counted(log).tokens == 30


@pytest.mark.usefixtures("impatient")
def test_a_process_that_never_ends_opening_stops_nobody(log: UsageLog, path: Path) -> None:
    path.parent.mkdir()
    with FileLock(f"{path}.lock"):
        ask(log, 10)
        assert "another process has held it" in log.problem
    assert counted(log).tokens == 10


def test_a_file_of_a_newer_version_is_left_as_it_is(log: UsageLog, path: Path) -> None:
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")
    ask(log, 10)
    assert "a newer version of symmetra-mcp made it" in log.problem
    assert counted(log).tokens == 10
    assert list(path.parent.glob("*.damaged-*")) == []
    with pytest.raises(SpendingLimitError, match="a newer version"):
        ask(log, 10, limit=1.0)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount: list[Any] = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as exc:
        pytest.skip(f"a small disk can't be mounted here: {exc}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def ask_often(log: UsageLog) -> None:
    """Until the pages that the file has already are used up."""
    for _ in range(10_000):
        ask(log, 10, limit=1.0)


def test_a_full_disk_stops_limited_requests_only_and_loses_no_count(
    small_disk: Path, open_log: Callable[..., UsageLog]
) -> None:
    path = small_disk / usage.FILE_NAME
    log = open_log(path)
    ask(log, 10)
    with (small_disk / "filler").open("wb", buffering=0) as filler, suppress(OSError):
        while True:
            filler.write(b"\0" * 4096)
    with pytest.raises(SpendingLimitError, match="can't be kept, so nothing is sent"):
        ask_often(log)
    assert "the disk is full" in log.problem
    before = counted(log).tokens
    ask(log, 10)
    assert counted(log).tokens == before + 10
    (small_disk / "filler").unlink()
    ask(log, 10, limit=1.0)
    assert log.problem == ""
    assert counted(open_log(path)).tokens == before + 20
    log.close()

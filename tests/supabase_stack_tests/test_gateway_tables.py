"""The gateway of the tests: tables, as supabase-py reads and writes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from postgrest import APIError
from postgrest.types import ReturnMethod
from supabase import Client
from supabase_stack.example import call, get, names, post, refusal
from supabase_stack.project import Project
from supabase_stack.real import REAL_PROJECT

pytestmark = pytest.mark.skipif(all(REAL_PROJECT.values()), reason="about the gateway of the tests' own")


def test_answers_are_cut_at_a_thousand_rows(filled: Project, client: Client) -> None:
    assert len(call(client, "numbers", n=1500)) == len(call(client, "rows_of", n=1500)) == 1000
    assert len(client.table("many").select("id").limit(1400).execute().data) == 1000
    page = client.table("many").select("id").order("id", desc=True).range(1000, 1999).execute().data
    assert [row["id"] for row in page] == list(range(500, 0, -1))


def test_rows_are_found_by_filters(filled: Project, client: Client) -> None:
    def found(ask: Callable[[Any], Any]) -> list[int]:
        rows = ask(client.table("things").select("id", "name")).order("id").execute().data
        assert all(set(row) == {"id", "name"} for row in rows)
        return [row["id"] for row in rows]

    assert found(lambda q: q.eq("name", 'tw"o, 2')) == [2]
    assert found(lambda q: q.neq("id", 2)) == [1, 3]
    assert found(lambda q: q.gt("id", 1).lte("id", 2)) == [2]
    assert found(lambda q: q.gte("id", 2).lt("id", 3)) == [2]
    assert found(lambda q: q.in_("name", ["one", 'tw"o, 2'])) == [1, 2]
    assert found(lambda q: q.in_("id", [])) == []
    assert found(lambda q: q.is_("note", None)) == [1]
    assert found(lambda q: q.not_.is_("note", None)) == [2, 3]
    assert found(lambda q: q.not_.eq("id", 2)) == [1, 3]
    assert found(lambda q: q.like("name", "%e").ilike("name", "T*")) == [3]
    assert found(lambda q: q.contains("tags", ["a b"])) == [1]
    assert found(lambda q: q.contained_by("tags", ["c"])) == [2, 3]
    assert found(lambda q: q.overlaps("tags", ["c", "d"])) == [1, 2]
    assert refusal(filled, client.table("things").select("nothing").execute) == (400, "42703")
    assert refusal(filled, client.table("things").select("id").eq("nothing", 1).execute) == (400, "42703")
    assert refusal(filled, client.table("things").select("id").filter("id", "zzz", "1").execute) == (400, "PGRST100")


def test_rows_are_ordered_paged_and_asked_for_one_by_one(filled: Project, client: Client) -> None:
    things = client.table("things")
    ordered = things.select("id").order("owner").order("note", desc=True, nullsfirst=True).execute().data
    assert [row["id"] for row in ordered] == [1, 3, 2]
    assert things.select("id").order("id").range(1, 1).execute().data == [{"id": 2}]
    assert things.select("id").eq("id", 3).single().execute().data == {"id": 3}
    assert things.select("id").eq("id", 9).maybe_single().execute() is None
    for wrong, rows in ((things.select("id").single(), 3), (things.select("id").eq("id", 9).single(), 0)):
        with pytest.raises(APIError) as caught:
            wrong.execute()
        assert caught.value.json() == {
            "code": "PGRST116",
            "message": "Cannot coerce the result to a single JSON object",
            "details": f"The result contains {rows} rows",
            "hint": None,
        }
        assert filled.faulty.requests[-1].status == 406


def test_rows_are_written(filled: Project, client: Client) -> None:
    things = client.table("things")
    assert things.insert([{"id": 5, "tags": ["x"]}, {"id": 6, "tags": []}]).execute().data[0]["tags"] == ["x"]
    assert filled.execute("select note from public.things where id in (5, 6)") == [("none",)] * 2
    with pytest.raises(APIError, match="null value in column"):
        things.insert([{"id": 7, "tags": ["x"]}, {"id": 8}]).execute()
    things.insert([{"id": 7, "note": "n"}, {"id": 8}]).execute()
    things.insert([{"id": 10, "note": "n"}, {"id": 11}], default_to_null=False).execute()
    things.insert({"id": 12, "name": "alone"}, default_to_null=False).execute()
    notes = dict(filled.execute("select id, note from public.things where id > 6 order by id"))
    assert notes == {7: "n", 8: None, 10: "n", 11: "none", 12: "none"}
    assert things.update({"note": "z"}).gt("id", 10).execute().data[0]["note"] == "z"
    assert [row["id"] for row in things.delete().in_("id", [11, 12]).execute().data] == [11, 12]
    assert set(names(filled)) == {1, 2, 3, 5, 6, 7, 8, 10}
    assert refusal(filled, things.insert({"id": 1}).execute) == (409, "23505")
    assert refusal(filled, things.insert({"nothing": 1}).execute) == (400, "PGRST204")


def test_upserts_merge_or_leave_what_is_there(filled: Project, client: Client) -> None:
    things = client.table("things")
    both = [{"id": 1, "name": "merged"}, {"id": 4, "name": "four"}]
    assert len(things.upsert(both).execute().data) == 2
    assert filled.faulty.requests[-1].status == 201
    things.upsert([{"id": 4, "name": "five"}]).execute()
    assert filled.faulty.requests[-1].status == 200, "nothing was new"
    things.upsert([{"id": 40, "name": "five", "note": "by name"}], on_conflict="name").execute()
    left = things.upsert([{"id": 2, "name": "left"}], ignore_duplicates=True).execute().data
    assert (left, filled.faulty.requests[-1].status) == ([], 201)
    assert names(filled) == {1: "merged", 2: 'tw"o, 2', 3: "three", 40: "five"}
    twice = things.upsert([{"id": 6, "name": "a"}, {"id": 6, "name": "b"}])
    assert refusal(filled, twice.execute) == (500, "21000")


def test_writes_that_return_nothing(filled: Project, client: Client) -> None:
    things, minimal = client.table("things"), ReturnMethod.minimal
    told = [
        (work.execute().data, filled.faulty.requests[-1].status)
        for work in (
            things.insert({"id": 4}, returning=minimal),
            things.upsert({"id": 4, "note": "u"}, returning=minimal),
            things.update({"note": "v"}, returning=minimal).eq("id", 4),
            things.delete(returning=minimal).eq("id", 4),
        )
    ]
    assert told == [([], 201), ([], 200), ([], 204), ([], 204)]
    answer = post(filled, "things", {"id": 5}, prefer="return=minimal")
    assert (answer.status_code, answer.content, answer.headers["Content-Range"]) == (201, b"", "*/*")
    assert get(filled, "things?select=id&order=id&offset=1").headers["Content-Range"] == "1-3/*"

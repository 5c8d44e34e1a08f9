from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

from symmetra_mcp.config import checked_project_id, load_settings
from symmetra_mcp.errors import ConfigError, RuleFileError
from symmetra_mcp.project import (
    SHARED_PROJECT,
    Project,
    RuleFolder,
    files_digest,
    project_id_of,
    project_in_hand,
    rule_files,
)


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A project with a rule file."""
    root = tmp_path / "My Shop"
    (root / ".git").mkdir(parents=True)
    (root / "src" / "deep").mkdir(parents=True)
    (root / "AGENTS.md").write_text("# Rules\n\n- Pin dependencies.\n", "utf-8")
    return root


def in_hand(folder: Path, **settings: Any) -> Project | None:
    return project_in_hand(load_settings(project_dir=folder, **settings))


def test_a_project_is_named_by_its_folder_and_told_apart_by_its_place(tmp_path: Path) -> None:
    one, other = tmp_path / "a" / "My Shop", tmp_path / "b" / "My Shop"
    assert re.fullmatch(r"my-shop-[0-9a-f]{6}", project_id_of(one))
    assert project_id_of(one) == project_id_of(one)
    assert project_id_of(one) != project_id_of(other)


@pytest.mark.parametrize("name", ["shop", "商店", "---", ".config", "x" * 200, "Größe & Co", "\udcff"])
def test_any_folder_gives_a_name_that_a_project_may_have(tmp_path: Path, name: str) -> None:
    assert checked_project_id(project_id_of(tmp_path / name))


def test_one_folder_reached_by_a_link_is_one_project(tmp_path: Path, shop: Path) -> None:
    link = tmp_path / "My Shop link"
    link.symlink_to(shop)
    assert project_id_of(link)[-6:] == project_id_of(shop)[-6:]


def test_the_project_in_hand_reads_its_own_rule_files(shop: Path) -> None:
    project_id = project_id_of(shop)
    expected = Project(shop, project_id, (RuleFolder(shop, project_id, (shop,)),))
    assert in_hand(shop) == expected
    assert in_hand(shop / "src" / "deep") == expected
    assert expected.project_ids == (project_id, SHARED_PROJECT)


def test_the_name_of_the_project_can_be_set(shop: Path) -> None:
    assert in_hand(shop, project="web") == Project(shop, "web", (RuleFolder(shop, "web", (shop,)),))


def test_a_project_reads_nothing_where_that_is_turned_off(shop: Path) -> None:
    project = in_hand(shop, rules="0")
    assert project == Project(shop, project_id_of(shop), ())
    assert project.project_ids == (project_id_of(shop), SHARED_PROJECT)


@pytest.mark.parametrize("mark", [".git", ".github", ".cursor", "AGENTS.md", "CLAUDE.md", ".cursorrules", ".symmetra"])
def test_a_folder_with_a_mark_is_a_project(tmp_path: Path, mark: str) -> None:
    folder = tmp_path / "place"
    folder.mkdir()
    assert in_hand(folder) is None
    (folder / mark).touch()
    project = in_hand(folder)
    assert project is not None
    assert project.root == folder


def test_the_home_folder_and_a_disk_are_no_projects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".cursor").mkdir()
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert in_hand(tmp_path) is None
    assert in_hand(Path(tmp_path.anchor)) is None


def test_named_rules_belong_to_the_project_inside_it_and_to_their_own_outside(tmp_path: Path, shop: Path) -> None:
    team = tmp_path / "team-rules"
    (team / ".git").mkdir(parents=True)
    (team / "python.md").touch()
    names = os.pathsep.join(["AGENTS.md", str(team / "python.md"), str(shop / "src"), str(team)])
    project = in_hand(shop, rules=names)
    project_id, team_id = project_id_of(shop), project_id_of(team)
    assert project == Project(
        shop,
        project_id,
        (
            RuleFolder(shop, project_id, (shop / "AGENTS.md", shop / "src")),
            RuleFolder(team, team_id, (team / "python.md", team)),
        ),
    )
    assert project.project_ids == (project_id, team_id, SHARED_PROJECT)


def test_named_rules_are_read_where_the_folder_is_no_project(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    (tmp_path / "rules.md").touch()
    project = in_hand(place, rules="../rules.md")
    assert project is not None
    assert [folder.paths for folder in project.folders] == [(tmp_path / "rules.md",)]


def test_a_named_path_that_is_not_there_is_named(shop: Path) -> None:
    with pytest.raises(RuleFileError, match=r"`SYMMETRA_RULES` names .*missing\.md"):
        in_hand(shop, rules="missing.md")


def test_a_project_folder_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    for name in ("missing", "file"):
        with pytest.raises(ConfigError, match=rf"`SYMMETRA_PROJECT_DIR` names .*{name}"):
            in_hand(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=re.escape(str(tmp_path / "missing"))):
        in_hand(Path("missing"), rules="0")


def test_rule_files_are_those_below_the_paths(shop: Path) -> None:
    (shop / ".cursor" / "rules").mkdir(parents=True)
    (shop / ".cursor" / "rules" / "web.mdc").write_text("---\nalwaysApply: true\n---\nUse hooks.\n", "utf-8")
    (shop / "src" / "main.py").touch()
    folder = RuleFolder(shop, "shop", (shop,))
    assert sorted(path.relative_to(shop).as_posix() for path in rule_files(folder)) == [
        ".cursor/rules/web.mdc",
        "AGENTS.md",
    ]


def test_a_digest_changes_with_any_of_its_files_and_with_nothing_else(tmp_path: Path) -> None:
    one, other = tmp_path / "one.md", tmp_path / "other.md"
    one.write_text("one", "utf-8")
    other.write_text("other", "utf-8")
    first = files_digest([one, other])
    assert files_digest([one, other]) == first
    (tmp_path / "unrelated.md").touch()
    assert files_digest([one, other]) == first
    assert files_digest([one]) != first
    one.write_text("one more", "utf-8")
    longer = files_digest([one, other])
    assert longer != first
    os.utime(one, ns=(1, 1))
    touched = files_digest([one, other])
    assert touched != longer
    one.unlink()
    gone = files_digest([one, other])
    assert gone == files_digest([other])
    assert gone != touched


def test_a_digest_of_no_files_exists() -> None:
    assert files_digest([]) == files_digest([Path("not there")])

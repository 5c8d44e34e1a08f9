"""What an import would change, worked out before anything is written: stored rules against freshly parsed files.

Nothing is lost by accident: a rule goes only when pruning was asked for and every file that stated it was read and no
longer does, or is gone. A file that could not be read keeps all its rules.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from symmetra_mcp.ingest.identity import Candidate, TextKey, match_edited, new_id, text_key
from symmetra_mcp.ingest.model import ParsedFile, Statement
from symmetra_mcp.ingest.native import rule_of
from symmetra_mcp.types import Rule, RuleKey, Scope, Source


@dataclass(frozen=True, slots=True)
class ImportPlan:
    """What an import would do.

    Attributes:
        changed: Rules whose text, fields or scope differ from what is stored.
        moved: Rules of which only the place in the files differs.
        removed: Rules that no file states any more, pruning on.
        stale: The same with pruning off, and rules of which nobody can say: they stay as they are.
        duplicates: Statements beyond the first of a rule that is stated more than once.
        warnings: Conflicts between files.
    """

    added: tuple[Rule, ...] = ()
    changed: tuple[Rule, ...] = ()
    moved: tuple[Rule, ...] = ()
    unchanged: tuple[RuleKey, ...] = ()
    removed: tuple[RuleKey, ...] = ()
    stale: tuple[RuleKey, ...] = ()
    duplicates: int = 0
    warnings: tuple[str, ...] = ()

    @property
    def writes(self) -> tuple[Rule, ...]:
        """The rules to store."""
        return (*self.added, *self.changed, *self.moved)


@dataclass(slots=True)
class _Group:
    """Statements that are one rule."""

    statements: list[Statement]
    key: TextKey
    rule_id: str = ""
    kept: tuple[Source, ...] = ()
    """Sources that this import says nothing about."""
    former: Rule | None = None

    @property
    def first(self) -> Statement:
        return self.statements[0]


@dataclass(slots=True)
class _Coverage:
    """Which files an import speaks for."""

    read: frozenset[str]
    partly: frozenset[str]
    unreadable: tuple[str, ...]
    prune_under: tuple[str, ...] | None = field(default=None)

    def replaces(self, source: Source) -> bool:
        """Whether the import says all there is to say about this source."""
        if not source.path:
            return False  # no file's
        if source.path in self.read:
            return True
        if self.prune_under is None or any(_is_below(source.path, path) for path in (*self.unreadable, *self.partly)):
            return False
        return any(_is_below(source.path, path) for path in self.prune_under)


def plan_import(
    existing: Sequence[Rule],
    parsed: Sequence[ParsedFile],
    *,
    project_id: str,
    prune_under: Sequence[str] | None = None,
    unreadable: Sequence[str] = (),
) -> ImportPlan:
    """Compare what is stored with what the files state.

    Args:
        existing: The project's rules.
        parsed: The files that were read, unreadable ones among them.
        project_id: The project; rules of others are not looked at.
        prune_under: POSIX paths relative to the root, `""` for all of it, below which rules that no file states any
            more are removed; `None` removes none.
        unreadable: Paths that a search could not look into; rules from there stay.
    """
    coverage = _coverage(parsed, prune_under, unreadable)
    stored = {rule.rule_id: rule for rule in existing if rule.project_id == project_id}
    groups, warnings = _group(parsed)
    remaining = {
        rule_id: tuple(s for s in rule.sources if not coverage.replaces(s)) for rule_id, rule in stored.items()
    }
    _match(groups, stored, remaining)
    _name_new(groups, stored, project_id)
    return _compare(groups, stored, remaining, coverage, project_id, warnings)


def _is_below(path: str, folder: str) -> bool:
    return not folder or path == folder or path.startswith(folder.rstrip("/") + "/")


def _coverage(parsed: Sequence[ParsedFile], prune_under: Sequence[str] | None, unreadable: Sequence[str]) -> _Coverage:
    return _Coverage(
        read=frozenset(file.path for file in parsed if not file.problem and file.complete),
        partly=frozenset(file.path for file in parsed if not file.problem and not file.complete),
        unreadable=(*unreadable, *(file.path for file in parsed if file.problem)),
        prune_under=None if prune_under is None else tuple(prune_under),
    )


def _group(parsed: Sequence[ParsedFile]) -> tuple[list[_Group], list[str]]:
    """Statements gathered to rules: by the id that their author gave, else by their text."""
    statements = sorted((s for file in parsed for s in file.statements), key=_rank)
    by_id: dict[str, _Group] = {}
    by_text: dict[TextKey, _Group] = {}
    warnings: list[str] = []
    for statement in statements:
        key = text_key(statement.guidance, statement.heading_path)
        named = by_id.get(statement.rule_id) if statement.rule_id else None
        if named and named.key != key:
            warnings.append(
                f"{statement.sources[0]}: rule_id {statement.rule_id!r} is also given in {named.first.sources[0]}, "
                "with another text; that one counts"
            )
            continue
        group = named or (None if statement.rule_id else by_text.get(key))
        if group:
            group.statements.append(statement)
            continue
        group = _Group([statement], key, statement.rule_id)
        by_text.setdefault(key, group)
        if statement.rule_id:
            by_id[statement.rule_id] = group
    unique = {id(group): group for group in (*by_id.values(), *by_text.values())}
    return sorted(unique.values(), key=lambda group: _rank(group.first)), warnings


def _rank(statement: Statement) -> tuple[bool, str, int, str]:
    """Rules with an id of their author's come first: theirs are the title and category that count."""
    source = statement.sources[0]
    return (not statement.rule_id, source.path, source.line_start, statement.guidance)


def _match(groups: Sequence[_Group], stored: Mapping[str, Rule], remaining: Mapping[str, tuple[Source, ...]]) -> None:
    """Give each group the stored rule that it is: by id, by text, then as the edited form of one that is gone."""
    free = dict(stored)
    for group in groups:
        if group.rule_id in free:
            group.former = free.pop(group.rule_id)
    by_text: dict[TextKey, list[str]] = defaultdict(list)
    for rule_id in sorted(free, reverse=True):
        by_text[text_key(free[rule_id].guidance, free[rule_id].heading_path)].append(rule_id)
    for group in groups:
        same = by_text.get(group.key)
        if same and not group.former and not group.rule_id:
            group.rule_id = same.pop()
            group.former = free.pop(group.rule_id)
    _match_edits([group for group in groups if not group.rule_id], free, remaining)


def _match_edits(new: Sequence[_Group], free: Mapping[str, Rule], remaining: Mapping[str, tuple[Source, ...]]) -> None:
    gone: dict[str, list[Candidate]] = defaultdict(list)
    for rule_id, rule in free.items():
        if rule.sources and not remaining[rule_id]:
            for path in {source.path for source in rule.sources}:
                gone[path].append(Candidate(rule_id, rule.title, rule.heading_path, rule.guidance))
    fresh: dict[str, list[tuple[str, _Group]]] = defaultdict(list)
    for number, group in enumerate(new):
        for path in {source.path for statement in group.statements for source in statement.sources}:
            if path in gone:
                fresh[path].append((str(number), group))
    taken: set[str] = set()
    for path in sorted(fresh):
        pairs = [(key, group) for key, group in fresh[path] if not group.rule_id]
        candidates = [Candidate(key, g.first.title, g.first.heading_path, g.first.guidance) for key, g in pairs]
        matched = match_edited([old for old in gone[path] if old.key not in taken], candidates)
        for key, group in pairs:
            if key in matched:
                group.rule_id = matched[key]
                group.former = free[group.rule_id]
                taken.add(group.rule_id)


def _name_new(groups: Sequence[_Group], stored: Mapping[str, Rule], project_id: str) -> None:
    taken = {*stored, *(group.rule_id for group in groups)}
    for group in groups:
        if not group.rule_id:
            group.rule_id = new_id(group.first, project_id, taken)
            taken.add(group.rule_id)


def _compare(
    groups: Sequence[_Group],
    stored: Mapping[str, Rule],
    remaining: Mapping[str, tuple[Source, ...]],
    coverage: _Coverage,
    project_id: str,
    warnings: list[str],
) -> ImportPlan:
    added, changed, moved = [], [], []
    unchanged: list[RuleKey] = []
    for group in groups:
        former = group.former
        rule = _merged(group, remaining.get(group.rule_id, ()), project_id)
        if former is None:
            added.append(rule)
        elif rule == former:
            unchanged.append(rule.key)
        elif _content(rule) == _content(former):
            moved.append(rule)
        else:
            changed.append(rule)
    removed, stale = [], []
    stated = {group.rule_id for group in groups}
    for rule_id in sorted(stored.keys() - stated):
        rule = stored[rule_id]
        if not rule.sources or remaining[rule_id] == rule.sources:
            continue  # added by hand, or stated in files that this import did not look at
        if remaining[rule_id]:
            changed_or_moved = replace(rule, sources=remaining[rule_id])
            (moved if _content(changed_or_moved) == _content(rule) else changed).append(changed_or_moved)
        elif coverage.prune_under is not None and all(_prunable(source, coverage) for source in rule.sources):
            removed.append(rule.key)
        else:
            stale.append(rule.key)
    return ImportPlan(
        added=tuple(added),
        changed=tuple(changed),
        moved=tuple(moved),
        unchanged=tuple(unchanged),
        removed=tuple(removed),
        stale=tuple(stale),
        duplicates=sum(len(group.statements) - 1 for group in groups),
        warnings=tuple(warnings),
    )


def _prunable(source: Source, coverage: _Coverage) -> bool:
    return any(_is_below(source.path, path) for path in coverage.prune_under or ())


def _merged(group: _Group, kept: tuple[Source, ...], project_id: str) -> Rule:
    """The rule that a group's statements make, with the sources that other files still give it."""
    rule = rule_of(group.first, project_id, group.rule_id)
    own = [source for statement in group.statements for source in statement.sources]
    stacks = [statement.tech_stacks for statement in group.statements]
    former = group.former
    kept = tuple(source for source in kept if source.path not in {now.path for now in own})
    if former and kept:
        stacks.append(former.tech_stacks)
        if not group.first.rule_id and kept[0].path < own[0].path and former.sources[:1] == kept[:1]:
            rule = former
    first = own[:1] if group.first.rule_id else []
    ordered = [*first, *sorted((*own, *kept), key=_place)]
    return replace(rule, sources=tuple(dict.fromkeys(ordered)), tech_stacks=_united(stacks))


def _place(source: Source) -> tuple[str, int, int]:
    return (source.path, source.line_start, source.line_end)


def _united(stacks: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    """Stated for React and for Python, a rule is about both; stated once for all, it is about all."""
    listed = list(stacks)
    if not all(listed):
        return ()
    if len(listed) == 1:
        return listed[0]
    return tuple(sorted({name for names in listed for name in names}))


def _content(rule: Rule) -> tuple[Rule, frozenset[Scope], tuple[str, ...]]:
    """All that matters to a reader of the rule: not where it stands."""
    return replace(rule, sources=()), frozenset(rule.scopes), rule.heading_path

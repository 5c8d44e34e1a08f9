"""An audit: reads the rules and their vectors once, and has every check look at them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
from anyio import from_thread

from symmetra_mcp.audit.contradictions import contradictions
from symmetra_mcp.audit.corpus import Corpus, Vectors
from symmetra_mcp.audit.dead_globs import ProjectFiles, files_below, glob_findings
from symmetra_mcp.audit.duplicates import exact_duplicates, near_duplicates
from symmetra_mcp.audit.findings import KINDS, AuditReport, Finding, Kind
from symmetra_mcp.audit.pairs import near_pairs, nearness
from symmetra_mcp.audit.questions import MAX_ASKED, hardest_first
from symmetra_mcp.audit.unfound import unfound_rules
from symmetra_mcp.audit.wording import long_rules, vague_rules
from symmetra_mcp.errors import ProviderError
from symmetra_mcp.import_log import read_imports
from symmetra_mcp.passages import passages
from symmetra_mcp.project import SHARED_PROJECT, STARTER_PROJECT
from symmetra_mcp.search import SearchAnswer, SearchRequest

if TYPE_CHECKING:
    from symmetra_mcp.app import App
    from symmetra_mcp.spaces import EmbeddingSpace
    from symmetra_mcp.types import ProgressCallback, Rule, Stage

_OF_MEANING: frozenset[Kind] = frozenset({"duplicates", "contradictions", "unfound"})


async def audit(
    app: App,
    *,
    project_id: str = "",
    kinds: Iterable[Kind] = KINDS,
    thorough: bool = False,
    on_progress: ProgressCallback | None = None,
) -> AuditReport:
    """Look for rules that repeat, disagree, are too long or too vague, can't be found, or are about no file.

    Args:
        app: Holds the store, the providers and the project in hand.
        project_id: Look at this project, and at shared rules as far as they meet its own; by default at all but the
            starter rules.
        kinds: What to look for.
        thorough: Ask for every rule, rather than for those whose titles tell them least from others.
        on_progress: Hears how far it is.

    Raises:
        StoreError: The store failed.
    """
    run = _Audit(app, project_id, tuple(kind for kind in KINDS if kind in set(kinds)), thorough, on_progress)
    return await run.report()


class _Audit:
    """One run, with what its checks share."""

    def __init__(
        self, app: App, project_id: str, kinds: tuple[Kind, ...], thorough: bool, on_progress: ProgressCallback | None
    ) -> None:
        self._app = app
        self._project_id = project_id
        self._kinds = kinds
        self._thorough = thorough
        self._on_progress = on_progress
        self._notes: list[str] = []
        self._asked_otherwise = False

    async def report(self) -> AuditReport:
        rules = [rule for rule in await self._app.list_rules() if self._is_compared(rule)]
        own = [rule for rule in rules if self._is_own(rule)]
        space: EmbeddingSpace | None = None
        findings: list[Finding] = []
        if _OF_MEANING & set(self._kinds):
            space, vectors = await self._vectors(rules)
            findings += await self._compared(rules, space, vectors)
            if "unfound" in self._kinds:
                findings += await self._unfound(own, space)
        if "long" in self._kinds:
            findings += long_rules(own)
        if "vague" in self._kinds:
            findings += vague_rules(own)
        if "globs" in self._kinds:
            files = await anyio.to_thread.run_sync(self._files, {rule.project_id for rule in own if _has_globs(rule)})
            findings += await anyio.to_thread.run_sync(glob_findings, own, files)
        return AuditReport(
            rules=len(own),
            kinds=self._kinds,
            space=str(space) if space is not None else "",
            findings=tuple(sorted(self._about_own(findings), key=lambda finding: KINDS.index(finding.kind))),
            notes=tuple(self._notes),
        )

    def _is_own(self, rule: Rule) -> bool:
        return rule.project_id == self._project_id if self._project_id else rule.project_id != STARTER_PROJECT

    def _is_compared(self, rule: Rule) -> bool:
        return self._is_own(rule) or (rule.project_id == SHARED_PROJECT and self._project_id != STARTER_PROJECT)

    def _about_own(self, findings: Iterable[Finding]) -> Iterable[Finding]:
        if not self._project_id:
            return findings
        return [each for each in findings if any(rule.project_id == self._project_id for rule in each.rules)]

    async def _vectors(self, rules: Sequence[Rule]) -> tuple[EmbeddingSpace | None, Vectors]:
        space = await self._app.store.active_space()
        if space is None:
            self._notes.append("nothing is embedded: rules were compared by their words alone (`symmetra-mcp reembed`)")
            return None, {}
        texts = await anyio.to_thread.run_sync(lambda: {text.content_hash for rule in rules for text in passages(rule)})
        return space, await self._app.store.get_vectors(space, sorted(texts))

    async def _compared(self, rules: Sequence[Rule], space: EmbeddingSpace | None, vectors: Vectors) -> list[Finding]:
        corpus = await anyio.to_thread.run_sync(Corpus, rules, vectors, space.dimensions if space else 0)
        bare = len(rules) - int(corpus.embedded.sum())
        if bare and space is not None:
            self._notes.append(
                f"{bare} of {len(rules)} rules are not embedded and were compared by their words alone "
                "(`symmetra-mcp reembed`)"
            )
        return await anyio.to_thread.run_sync(self._paired, corpus)

    def _paired(self, corpus: Corpus) -> list[Finding]:
        """What pairs of rules say; in a worker thread."""
        if not {"duplicates", "contradictions"} & set(self._kinds):
            return []
        pairs = near_pairs(corpus, partial(self._tell_from_thread, "compare"))
        scale = nearness(pairs)
        findings: list[Finding] = []
        if "duplicates" in self._kinds:
            findings += [*exact_duplicates(corpus), *near_duplicates(corpus, pairs, scale)]
        if "contradictions" in self._kinds:
            findings += contradictions(corpus, pairs, scale)
        return findings

    async def _unfound(self, own: Sequence[Rule], space: EmbeddingSpace | None) -> list[Finding]:
        if not self._thorough and len(own) > MAX_ASKED:
            self._notes.append(
                f"asked for {MAX_ASKED} of {len(own):,} rules, whose titles tell them least from others: "
                "--thorough asks for all"
            )
            own = (await anyio.to_thread.run_sync(hardest_first, own))[:MAX_ASKED]
        return await unfound_rules(
            own, partial(self._prepare, space), partial(self._ask, space), partial(self._tell, "ask")
        )

    async def _prepare(self, space: EmbeddingSpace | None, questions: Sequence[str]) -> None:
        """Embed questions together: the provider keeps their vectors for the searches that ask them."""
        with suppress(ProviderError):  # which the searches tell
            provider = await self._app.providers.serving(space)
            await provider.embed_queries(questions)

    async def _ask(self, space: EmbeddingSpace | None, question: str, project_id: str) -> SearchAnswer:
        answer = await self._app.search(SearchRequest(query=question), project_id=project_id)
        if answer.space != space and not self._asked_otherwise:
            self._asked_otherwise = True
            self._notes.append(f"while rules were asked for, {answer.degraded}")
        return answer

    def _files(self, project_ids: Iterable[str]) -> dict[str, ProjectFiles]:
        """The files of the projects whose folders are known on this machine; in a worker thread."""
        roots = self._roots()
        files: dict[str, ProjectFiles] = {}
        for project_id in sorted(project_ids):
            root = roots.get(project_id)
            if root is None or not root.is_dir():
                self._notes.append(f"globs of project {project_id!r} were read alone: its folder is not known here")
                continue
            files[project_id] = files_below(root)
            if not files[project_id].complete:
                self._notes.append(
                    f"globs of project {project_id!r} were read alone: {root} holds more than "
                    f"{len(files[project_id].paths):,} files"
                )
        return files

    def _roots(self) -> dict[str, Path]:
        found: dict[str, Path] = {}
        if not self._app.store.is_shared:
            found = {record.project_id: Path(record.root) for record in read_imports(self._app.settings.data_folder)}
        project = self._app.project
        if project is not None:
            found |= {folder.project_id: folder.root for folder in project.folders}
            found[project.project_id] = project.root
        return found

    def _tell(self, stage: Stage, done: int, total: int) -> None:
        if self._on_progress is not None:
            self._on_progress(stage, done, total)

    def _tell_from_thread(self, stage: Stage, done: int, total: int) -> None:
        from_thread.run_sync(self._tell, stage, done, total)


def _has_globs(rule: Rule) -> bool:
    return any(scope.globs for scope in rule.scopes)

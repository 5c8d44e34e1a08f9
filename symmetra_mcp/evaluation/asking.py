"""Questions asked one after another through the product's own search."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from symmetra_mcp.app import App
from symmetra_mcp.evaluation.questions import Question
from symmetra_mcp.evaluation.runs import Ranked, Run, without_repeats
from symmetra_mcp.search import SearchAnswer, SearchRequest
from symmetra_mcp.types import ProgressCallback

LIMIT = 10
_MAX_TOKENS = 1_000_000
"""No rule is left out for its length: what is measured is the order."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What some questions were answered with.

    Attributes:
        degraded: How often answers were degraded, by the reason.
        space: Where meaning was compared, or empty.
    """

    run: Run
    degraded: Counter[str]
    space: str


async def ask_all(
    app: App,
    questions: Sequence[Question],
    *,
    project_id: str = "",
    all_projects: bool = False,
    on_progress: ProgressCallback | None = None,
) -> Asked:
    """Ask each question by itself; what loads a model or opens a connection is done before.

    Args:
        app: Answers.
        questions: What to ask.
        project_id: Project to search instead of the one in hand.
        all_projects: Search every project.
        on_progress: Hears how far it is.

    Raises:
        ProviderError: Nothing embeds questions now.
        StoreError: The store failed.
    """
    await app.warm_up()
    run: dict[str, Ranked] = {}
    degraded: Counter[str] = Counter()
    spaces: Counter[str] = Counter()
    for number, question in enumerate(questions, 1):
        request = SearchRequest(
            query=question.text,
            category=question.category,
            tech_stacks=question.tech_stacks,
            file_path=question.file_path,
            limit=LIMIT,
            max_tokens=_MAX_TOKENS,
        )
        began = time.perf_counter()
        answer = await app.search(request, project_id=project_id, all_projects=all_projects)
        run[question.question_id] = _ranked(answer, (time.perf_counter() - began) * 1000)
        degraded.update([answer.degraded] if answer.degraded else [])
        spaces.update([str(answer.space)] if answer.space is not None else [])
        if on_progress is not None:
            on_progress("ask", number, len(questions))
    return Asked(run, degraded, spaces.most_common(1)[0][0] if spaces else "")


def confidence_of(answer: SearchAnswer) -> float | None:
    """How sure an answer is that any rule applies: the best similarity; `None` where meaning was not compared."""
    similarities = [match.similarity for match in (*answer.hits, *answer.below) if match.similarity is not None]
    return max(similarities, default=None)


def _ranked(answer: SearchAnswer, latency_ms: float) -> Ranked:
    """The rules of an answer in order, those folded into a hit right after it."""
    results = ((rule.rule_id, hit.score) for hit in answer.hits for rule in (hit.rule, *hit.also))
    return Ranked(without_repeats(results), round(latency_ms, 3), confidence_of(answer))

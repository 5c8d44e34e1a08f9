"""An evaluation from end to end: rules in place, questions asked, answers scored and compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from symmetra_mcp.app import App, open_app
from symmetra_mcp.config import settings_with, without_secret
from symmetra_mcp.evaluation.asking import Asked, ask_all
from symmetra_mcp.evaluation.beir import LabelledSet
from symmetra_mcp.evaluation.outcome import Comparison, Outcome, Scored
from symmetra_mcp.evaluation.questions import Question, refuse_unknown_names
from symmetra_mcp.evaluation.runs import Run
from symmetra_mcp.evaluation.scoring import compare, evaluate, failures
from symmetra_mcp.evaluation.temporary import PROJECT, copied_app, corpus_app, refuse_other_settings
from symmetra_mcp.types import ProgressCallback

NOW = "settings as they are"


@dataclass(frozen=True, slots=True)
class Plan:
    """What to evaluate.

    Attributes:
        questions: What to ask.
        labelled: The set whose rules are searched in a temporary store, or `None` for the rules in use.
        variables: Settings of a second configuration, by their variables; empty for none.
        former: A former run of these questions.
        former_name: What that is called.
        on_progress: Hears how far it is.
        on_done: Hears of the app over the rules in use before it is closed.
    """

    questions: Sequence[Question]
    labelled: LabelledSet | None = None
    variables: Mapping[str, str] = field(default_factory=dict[str, str])
    former: Run | None = None
    former_name: str = ""
    on_progress: ProgressCallback | None = None
    on_done: Callable[[App], None] | None = None


async def run_plan(plan: Plan) -> tuple[Outcome, Run]:
    """Ask and score; also the answers themselves, of the settings as they are.

    Raises:
        EvaluationError: A question expects a rule that there is not, or rules could not be imported.
        ConfigError: A setting can't be used, or is no provider's.
        ProviderError: Embedding failed.
        StoreError: A store failed.
    """
    refuse_other_settings(plan.variables)
    settings_with(plan.variables)  # a wrong value is told before work begins
    names = [NOW, ", ".join(without_secret(*item) for item in plan.variables.items())]
    rules, asked = await (_over_rules_in_use(plan) if plan.labelled is None else _over_a_set(plan, plan.labelled))
    now = asked[0].run
    comparisons = []
    if plan.former is not None:
        comparisons.append(Comparison(plan.former_name, NOW, compare(plan.questions, plan.former, now)))
    if plan.variables:
        comparisons.append(Comparison(NOW, names[1], compare(plan.questions, now, asked[1].run)))
    outcome = Outcome(
        rules=rules,
        questions=len(plan.questions),
        left_out=plan.labelled.left_out if plan.labelled is not None else 0,
        runs=tuple(
            Scored(name, one.space, evaluate(plan.questions, one.run), one.degraded)
            for name, one in zip(names, asked, strict=False)
        ),
        comparisons=tuple(comparisons),
        failures=tuple(failures(plan.questions, now)) if plan.labelled is None else (),
    )
    return outcome, now


async def _over_a_set(plan: Plan, labelled: LabelledSet) -> tuple[int, list[Asked]]:
    asked = []
    for variables in ({}, plan.variables) if plan.variables else ({},):
        async with corpus_app(labelled, variables, on_progress=plan.on_progress) as app:
            asked.append(await ask_all(app, plan.questions, project_id=PROJECT, on_progress=plan.on_progress))
    return len(labelled.rules), asked


async def _over_rules_in_use(plan: Plan) -> tuple[int, list[Asked]]:
    async with open_app(settings_with({}, query_cache=False)) as app:  # a cached vector would hide what a search takes
        await app.keep_in_step(on_progress=plan.on_progress)
        await app.embed_missing(on_progress=plan.on_progress)
        rules = await app.searched_rules()
        refuse_unknown_names(plan.questions, (rule.rule_id for rule in rules), (rule.category for rule in rules))
        asked = [await ask_all(app, plan.questions, on_progress=plan.on_progress)]
        if plan.variables:
            every = app.store.is_shared and not app.settings.project
            async with copied_app(app, plan.variables, on_progress=plan.on_progress) as copy:
                asked.append(await ask_all(copy, plan.questions, all_projects=every, on_progress=plan.on_progress))
        if plan.on_done is not None:
            plan.on_done(app)
    return len(rules), asked

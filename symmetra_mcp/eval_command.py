"""`symmetra-mcp eval`: how good searches are, over a team's own questions or a labelled set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from symmetra_mcp import terminal
from symmetra_mcp.terminal import examples, json_option, progress, run_async, tell_notices, write_file

if TYPE_CHECKING:
    from symmetra_mcp.evaluation.outcome import Outcome

_FILE = click.Path(path_type=Path)
_SHARE = click.FloatRange(0, 1)


class _Variable(click.ParamType[tuple[str, str]]):
    """`NAME=VALUE`, a setting by its environment variable."""

    name = "NAME=VALUE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        """The two parts."""
        name, separator, setting = str(value).partition("=")
        if not separator or not name.strip():
            self.fail("give a setting as NAME=VALUE, such as SYMMETRA_EMBEDDING_BACKEND=cohere", param, ctx)
        return name.strip(), setting


@click.command(
    "eval",
    epilog=examples(
        "symmetra-mcp eval questions.yaml                    # your questions over your rules",
        "symmetra-mcp eval questions.yaml --min-recall 0.9   # in CI: exit code 1 below it",
        "symmetra-mcp eval questions.yaml --run-out before.jsonl",
        "symmetra-mcp eval questions.yaml --against before.jsonl",
        "symmetra-mcp eval questions.yaml --with SYMMETRA_EMBEDDING_BACKEND=cohere",
        "symmetra-mcp eval --corpus corpus.jsonl --queries queries.jsonl --qrels qrels/test.tsv",
    ),
)
@click.argument("questions", required=False, type=_FILE)
@click.option("--corpus", type=_FILE, help="BEIR: rules as JSON lines with _id, title, text, perhaps metadata.")
@click.option("--queries", type=_FILE, help="BEIR: questions as JSON lines with _id, text, perhaps metadata.")
@click.option("--qrels", type=_FILE, help="BEIR: query id, corpus id and grade, separated by tabs.")
@click.option("--filter-tech-stack", is_flag=True, help="BEIR: search rules of the query's metadata.tech_stack alone.")
@click.option("--against", type=_FILE, help="Compare with a former run of the same questions.")
@click.option(
    "--with",
    "variables",
    type=_Variable(),
    multiple=True,
    help="Compare with a provider's setting changed, by its environment variable; repeatable.",
)
@click.option(
    "--run-out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write what was found: TREC where the name ends in .trec or .run, else JSON lines.",
)
@click.option("--min-recall", type=_SHARE, metavar="X", help="Exit code 1 where recall@5 is below X.")
@click.option("--min-ndcg", type=_SHARE, metavar="X", help="Exit code 1 where nDCG@10 is below X.")
@json_option
def evaluate(
    questions: Path | None,
    corpus: Path | None,
    queries: Path | None,
    qrels: Path | None,
    filter_tech_stack: bool,
    against: Path | None,
    variables: tuple[tuple[str, str], ...],
    run_out: Path | None,
    min_recall: float | None,
    min_ndcg: float | None,
    as_json: bool,
) -> None:
    """Measure how well searches find the rules that they should, and keep silent where none applies.

    QUESTIONS is a YAML list of `question` and `expect`, asked over your own rules. Instead, --corpus, --queries and
    --qrels name a labelled set in BEIR layout, which is indexed in a temporary store. Nothing of yours is changed.
    """
    labels = (corpus, queries, qrels)
    if (questions is None) == (None in labels) or (questions is not None and any(labels)):
        raise click.UsageError("give QUESTIONS, or --corpus, --queries and --qrels together")
    if filter_tech_stack and questions is not None:
        raise click.UsageError("--filter-tech-stack is for labelled sets: a question in QUESTIONS names its tech_stack")

    async def run() -> None:
        from symmetra_mcp.evaluation.beir import read_labelled_set
        from symmetra_mcp.evaluation.outcome_tables import outcome_tables
        from symmetra_mcp.evaluation.plan import Plan, run_plan
        from symmetra_mcp.evaluation.questions import read_questions
        from symmetra_mcp.evaluation.runs import read_run, run_text

        labelled = None
        if corpus is not None and queries is not None and qrels is not None:
            labelled = read_labelled_set(corpus, queries, qrels, filter_tech_stack=filter_tech_stack)
        asked = labelled.questions if labelled is not None else read_questions(cast("Path", questions))
        former = None if against is None else read_run(against, asked)
        with progress() as on_progress:
            plan = Plan(asked, labelled, dict(variables), former, str(against), on_progress, tell_notices)
            outcome, found = await run_plan(plan)
        terminal.show(outcome.to_dict() if as_json else outcome_tables(outcome), as_json=as_json)
        if run_out is not None:
            await write_file(run_out, run_text(found, run_out), option="--run-out")
        _check_bounds(outcome, min_recall, min_ndcg)

    run_async(run)


def _check_bounds(outcome: Outcome, min_recall: float | None, min_ndcg: float | None) -> None:
    """End with exit code 1 where the first run is below a bound."""
    from symmetra_mcp.evaluation.scoring import NDCG, RECALL

    rankings = outcome.runs[0].evaluation.rankings
    if not rankings and (min_recall, min_ndcg) != (None, None):
        raise click.ClickException("no question expects a rule, so --min-recall and --min-ndcg have nothing to hold to")
    bounds = (
        [(RECALL, rankings[-1].recall_at_5.value, min_recall), (NDCG, rankings[-1].ndcg_at_10.value, min_ndcg)]
        if rankings
        else []
    )
    missed = [
        f"{name} is {value:.4f}, below {bound:g}"
        for name, value, bound in bounds
        if bound is not None and value < bound
    ]
    if missed:
        raise click.ClickException("; ".join(missed))

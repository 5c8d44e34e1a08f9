"""Which rules are asked for, and in which words."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

from symmetra_mcp.audit.corpus import without_code
from symmetra_mcp.ingest.blocks import plain
from symmetra_mcp.passages import rule_terms
from symmetra_mcp.search import DEFAULT_LIMIT
from symmetra_mcp.types import Rule
from symmetra_mcp.words import MAX_QUERY_TERMS, Bm25, query_terms

MAX_ASKED = 250
"""Rules asked for unless all are wanted: each takes a search, and two where its title does not find it."""
_EQUAL = 1e-4
_SENTENCE = re.compile(r"(?<=[^\W\d_]{2}[.!?])\s+|\n|[\u3002\uff01\uff1f]")
_LONGEST_QUESTION = 300


def title_question(rule: Rule) -> str:
    """What somebody asks who knows what the rule is about."""
    return rule.title.strip() or rule.rule_id


def sentence_question(rule: Rule) -> str:
    """The first sentence of its guidance, without markup and code blocks."""
    sentences = (plain(part).strip(" .:") for part in _SENTENCE.split(without_code(rule.guidance)))
    return next((sentence for sentence in sentences if sentence), title_question(rule))[:_LONGEST_QUESTION]


def hardest_first(rules: Sequence[Rule]) -> list[Rule]:
    """The rules, those first that their title tells least from others.

    That is, by words alone: of how many rules of the project the title says as much or more, up to five; then by how
    few words it has.
    """
    of_project: defaultdict[str, list[Rule]] = defaultdict(list)
    for rule in rules:
        of_project[rule.project_id].append(rule)
    hardness: list[tuple[int, int, Rule]] = []
    for own in of_project.values():
        index = Bm25([rule_terms(rule).to_bytes() for rule in own])
        for row, rule in enumerate(own):
            wanted = query_terms(title_question(rule), MAX_QUERY_TERMS)
            scores, _ = index.scores(wanted)
            ahead = int((scores >= scores[row] * (1 - _EQUAL)).sum()) - 1
            hardness.append((min(ahead, DEFAULT_LIMIT), len(wanted), rule))
    return [rule for _, _, rule in sorted(hardness, key=lambda each: (-each[0], each[1]))]

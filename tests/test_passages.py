from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

import symmetra_mcp
from symmetra_mcp.passages import (
    KEYWORD_WEIGHT,
    MAX_PASSAGES,
    RATIONALE_WEIGHT,
    TITLE_WEIGHT,
    USUAL_NAME_TERMS,
    USUAL_TEXT_TERMS,
    Passage,
    content_hash,
    estimate_word_pieces,
    passage_body,
    passages,
    rule_terms,
)
from symmetra_mcp.types import Rule, Source
from symmetra_mcp.words import B, term_hash

PACKAGE = Path(symmetra_mcp.__file__).parent
TOKENIZER = PACKAGE / "_data" / "tokenizer.json"
MODEL_READS = 256
"""Word pieces of one text, the two marks at its ends included."""


def rule(guidance: str = "", **fields: Any) -> Rule:
    return Rule(
        **{"project_id": "p", "rule_id": "keep-it-short", "title": "Keep it short", "guidance": guidance} | fields
    )


def squeezed(text: str) -> str:
    return "".join(text.split())


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(TOKENIZER))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def starter_guidance() -> list[str]:
    """Realistic rules in English, joined to the length of long ones."""
    texts = []
    for path in sorted((PACKAGE / "starter").glob("*.yaml")):
        entries = yaml.safe_load(path.read_text("utf-8"))
        entries = entries["rules"] if isinstance(entries, dict) else entries
        texts.append("\n\n".join(f"## {entry['title']}\n\n{entry['guidance']}" for entry in entries))
    return texts


def package_code() -> list[str]:
    """Realistic code, without the tables of abbreviations."""
    files = [path for path in sorted(PACKAGE.rglob("*.py")) if path.name != "vocabulary.py"]
    return [path.read_text("utf-8") for path in files if path.stat().st_size > 2000]


def test_a_short_rule_is_one_passage_with_its_title_before_it() -> None:
    assert passages(rule("Forty lines at most.")) == [
        Passage("Keep it short. Forty lines at most.", content_hash("Keep it short. Forty lines at most."))
    ]


def test_the_rationale_follows_the_guidance() -> None:
    (passage,) = passages(rule(" Forty lines. \n", rationale=" Long ones hide bugs. "))
    assert passage.text == "Keep it short. Forty lines.\n\nLong ones hide bugs."


@pytest.mark.parametrize(
    ("heading_path", "title", "head"),
    [
        pytest.param((), "Title", "Title", id="none"),
        pytest.param(("API",), "Title", "API > Title", id="one"),
        pytest.param(("Guide", "API", "Requests"), "Title", "API > Requests > Title", id="nearest-two"),
        pytest.param(("API", "Title"), "Title", "API > Title", id="same-as-title"),
        pytest.param(("", "API"), "Title", "API > Title", id="empty-one"),
        pytest.param((), " ", "keep-it-short", id="no-title"),
    ],
)
def test_headings_stand_before_the_title(heading_path: tuple[str, ...], title: str, head: str) -> None:
    headed = rule("Body.", title=title, sources=(Source("A.md", heading_path=heading_path),))
    assert [passage.text for passage in passages(headed)] == [f"{head}. Body."]


@pytest.mark.parametrize(
    ("stacks", "head"),
    [
        pytest.param(("python",), "python: Keep it short", id="one"),
        pytest.param(("react", "typescript", "css", "html"), "react, typescript: Keep it short", id="first-two"),
    ],
)
def test_tech_stacks_stand_before_the_title(stacks: tuple[str, ...], head: str) -> None:
    assert [passage.text for passage in passages(rule("Body.", tech_stacks=stacks))] == [f"{head}. Body."]


@pytest.mark.parametrize("guidance", ["", "  \n "])
def test_a_rule_without_text_is_embedded_by_its_title(guidance: str) -> None:
    assert [passage.text for passage in passages(rule(guidance))] == ["Keep it short"]


def test_a_long_rule_is_several_passages_each_with_its_title() -> None:
    texts = [passage.text for passage in passages(rule("\n".join(f"Line {i} says something." for i in range(200))))]
    assert len(texts) > 3
    assert all(text.startswith("Keep it short. Line ") for text in texts)


def test_passages_end_where_lines_or_sentences_do() -> None:
    long = rule(" ".join(f"Sentence number {i} is here." for i in range(300)))
    assert all(passage.text.endswith(" is here.") for passage in passages(long))


LONG_TEXTS = {
    "sentences": " ".join(f"Sentence {i} says: check the value; then go on!" for i in range(300)),
    "lines": "\n".join(f"- item {i}" for i in range(500)),
    "one-sentence": " ".join(f"word{i}" for i in range(1000)),
    "one-word": "".join(f"{i}x" for i in range(1000)),
    "symbols": "".join(f"{{{i}}}[]();=>" for i in range(300)),
    "chinese": "".join(f"数据库{i}不要直接访问。" for i in range(200)),
    "chinese-without-stops": "".join(f"数据库{i}不要直接访问" for i in range(200)),
    "code": "".join(f"def f{i}(x):\n    return {{k: v for k, v in x.items() if v}}\n" for i in range(60)),
    "emoji": " ".join(f"🚀 go{i}" for i in range(500)),
    "blank-lines": "\n\n\n".join(f"Paragraph {i}." for i in range(400)),
}


@pytest.mark.parametrize("text", [pytest.param(text, id=name) for name, text in LONG_TEXTS.items()])
def test_nothing_of_a_long_rule_is_lost_and_nothing_is_said_twice(text: str) -> None:
    long = rule(text, rationale="At the very end: because.")
    found = passages(long)
    assert 1 < len(found) < MAX_PASSAGES
    bodies = [passage_body(long, passage.text) for passage in found]
    assert squeezed("".join(bodies)) == squeezed(f"{text}At the very end: because.")


@given(st.lists(st.text(min_size=1, max_size=80), max_size=40))
def test_no_word_is_lost_whatever_the_text(lines: list[str]) -> None:
    text = "\n".join(f"{i} {line}" for i, line in enumerate(lines))
    long = rule(text)
    found = passages(long)
    bodies = [passage_body(long, passage.text) for passage in found] if text.strip() else [""]
    assert squeezed("".join(bodies)) == squeezed(text)


def test_a_rule_beyond_all_passages_keeps_its_beginning() -> None:
    endless = rule("\n".join(f"Line {i} says something." for i in range(20_000)))
    found = passages(endless)
    assert len(found) == MAX_PASSAGES
    assert "Line 0 " in found[0].text


@pytest.mark.parametrize("name", ["starter", "package"])
def test_passages_of_english_and_code_fit_the_model(tokenizer: Tokenizer, name: str) -> None:
    texts = starter_guidance() if name == "starter" else package_code()
    headed = [
        rule(text, title="Errors name the next step", sources=(Source("A.md", heading_path=("Code", "Errors")),))
        for text in texts
    ]
    found = [passage.text for each in headed for passage in passages(each)]
    assert len(found) > 50
    sizes = {text: len(encoding.ids) for text, encoding in zip(found, tokenizer.encode_batch(found), strict=True)}
    assert {text: size for text, size in sizes.items() if size > MODEL_READS} == {}


@pytest.mark.parametrize("name", ["starter", "package"])
def test_word_pieces_are_estimated_within_a_fifth(tokenizer: Tokenizer, name: str) -> None:
    texts = starter_guidance() if name == "starter" else package_code()
    for text in texts:
        exact = len(tokenizer.encode(text, add_special_tokens=False).ids)
        assert estimate_word_pieces(text) == pytest.approx(exact, rel=0.2)


def test_a_passage_that_repeats_is_embedded_once() -> None:
    found = passages(rule("\n".join(["The same line again and again."] * 3000)))
    assert len(found) == len({passage.content_hash for passage in found})


def test_content_hashes_tell_texts_apart_and_stay_as_they_are() -> None:
    text = "Keep it short. Ärger 🚀"
    assert content_hash(text) == hashlib.sha256(text.encode()).hexdigest()[:32]
    assert content_hash(text) != content_hash(text + " ")
    assert content_hash("\ud83d") != content_hash("\ud83e")


def test_passages_depend_on_the_texts_alone() -> None:
    one = rule("Body.", project_id="a", priority="low", category="ux", keywords=("x",))
    other = rule("Body.", project_id="b", rule_id="renamed", priority="high", category="data", keywords=("y",))
    assert passages(one) == passages(other)


def test_a_passages_body_is_its_text_without_the_head() -> None:
    headed = rule("Keep it short. Really.", sources=(Source("A.md", heading_path=("Style",)),))
    (passage,) = passages(headed)
    assert passage_body(headed, passage.text) == "Keep it short. Really."
    assert passage_body(headed, "a foreign text") == "a foreign text"


def test_search_terms_of_a_rule_come_from_every_field_and_titles_weigh_more() -> None:
    rich = rule(
        "guided",
        title="titled",
        rule_id="id-words",
        rationale="reasoned",
        keywords=("keyed",),
        sources=(Source("A.md", heading_path=("headed",)),),
    )
    found = rule_terms(rich)
    shorter = 1 / (1 - B + B / USUAL_NAME_TERMS)  # a name of one word
    expected = {
        "titl": TITLE_WEIGHT * shorter,
        "guid": 1 / (1 - B + B / USUAL_TEXT_TERMS),
        "reason": RATIONALE_WEIGHT / (1 - B + B / USUAL_TEXT_TERMS),
        "key": KEYWORD_WEIGHT,
        "head": shorter,
        "id": 1 / (1 - B + B * 2 / USUAL_NAME_TERMS),
        "word": 1 / (1 - B + B * 2 / USUAL_NAME_TERMS),
    }
    counted = dict(zip(found.hashes.tolist(), found.counts.tolist(), strict=True))
    assert counted == pytest.approx({term_hash(term): count for term, count in expected.items()})
    assert term_hash("titl") in found.hashes.tolist()

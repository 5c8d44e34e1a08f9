from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from symmetra_mcp.words import K1, Bm25, Field, TermCounts, count_terms, query_terms, term_hash, terms


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("", [], id="empty"),
        pytest.param(" \n\t .,;!? (){} '\"", [], id="no-words"),
        pytest.param("Validate the inputs", ["valid", "input"], id="stems-and-stop-words"),
        pytest.param("The THE the", [], id="stop-words-whatever-the-case"),
        pytest.param("running runs run", ["run", "run", "run"], id="repeats-are-kept"),
        pytest.param("useEffect", ["useeffect", "use", "effect"], id="camel-case"),
        pytest.param("HttpClient", ["httpclient", "http", "client"], id="pascal-case"),
        pytest.param("snake_case_name", ["snake_case_name", "snake", "case", "name"], id="snake-case"),
        pytest.param("MAX_RETRIES", ["max_retries", "max", "retri"], id="constant"),
        pytest.param("HTTPServer", ["httpserver", "http", "server"], id="acronym-first"),
        pytest.param("parseJSONBody", ["parsejsonbody", "pars", "json", "bodi"], id="acronym-within"),
        pytest.param("SHA256", ["sha256", "sha", "256"], id="digits"),
        pytest.param("2024", ["2024"], id="number"),
        pytest.param("getById", ["getbyid", "get", "id"], id="stop-word-part-is-left-out"),
        pytest.param("_private", ["privat"], id="outer-underscore"),
        pytest.param("__init__", ["init", "__init__"], id="dunder"),
        pytest.param("a === b", ["===", "b"], id="operator"),
        pytest.param("kebab-case", ["kebab", "case"], id="kebab-case"),
        pytest.param("os.path.join()", ["os.path.join", "os", "path", "join"], id="dotted"),
        pytest.param("don't", ["don", "t"], id="apostrophe"),
        pytest.param("数据库", ["数据", "据库"], id="chinese-pairs"),
        pytest.param("版", ["版"], id="chinese-single"),
        pytest.param("カタカナ", ["カタ", "タカ", "カナ"], id="japanese-pairs"),
        pytest.param("한국어", ["한국", "국어"], id="korean-pairs"),
        pytest.param("数据DBを", ["数据", "を", "db"], id="mixed-scripts"),
        pytest.param("数据getUser", ["数据", "getuser", "get", "user"], id="mixed-with-identifier"),
        pytest.param("🚀 ship 🚀", ["ship"], id="emoji"),
        pytest.param("\ud83d lone", ["lone"], id="half-a-surrogate-pair"),
    ],
)
def test_text_is_split_into_terms(text: str, expected: list[str]) -> None:
    assert terms(text) == expected


@pytest.mark.parametrize("word", ["straße", "école", "größe", "čeština", "москва"])
def test_words_with_letters_beyond_ascii_are_found_whole(word: str) -> None:
    assert word in terms(f"in {word}, now")
    assert word in terms(word.capitalize())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("dependency", "dependencies"),
        ("test", "Testing"),
        ("useEffect", "use effect"),
        ("retry_policy", "RetryPolicy"),
        ("HTTP client", "httpClient"),
        ("std::move", "std.move"),
        ("os.path", "the path"),
    ],
)
def test_forms_of_a_word_share_terms(one: str, other: str) -> None:
    assert set(terms(one)) & set(terms(other))


MEGABYTE = 1_000_000


@pytest.mark.slow
@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "text",
    [
        pytest.param("Check the inputs of every request. " * (MEGABYTE // 35), id="prose"),
        pytest.param("getUserById " * (MEGABYTE // 12), id="identifiers"),
        pytest.param("a" * MEGABYTE, id="one-word"),
        pytest.param("y" * MEGABYTE, id="one-word-of-y"),
        pytest.param("ay" * (MEGABYTE // 2), id="one-word-of-vowels"),
        pytest.param("A" * MEGABYTE, id="capitals"),
        pytest.param("aB" * (MEGABYTE // 2), id="alternating-case"),
        pytest.param("A1" * (MEGABYTE // 2), id="letters-and-digits"),
        pytest.param("a_" * (MEGABYTE // 2), id="alternating-underscores"),
        pytest.param("a" + "_" * MEGABYTE, id="underscores"),
        pytest.param("__" + "a_" * (MEGABYTE // 2), id="dunder-without-end"),
        pytest.param("x." * (MEGABYTE // 2), id="dotted"),
        pytest.param("x:" * (MEGABYTE // 2), id="colons"),
        pytest.param("=" * MEGABYTE, id="operators"),
        pytest.param("中" * MEGABYTE, id="chinese"),
        pytest.param("é" * MEGABYTE, id="accents"),
        pytest.param("中a" * (MEGABYTE // 2), id="alternating-scripts"),
    ],
)
def test_a_megabyte_of_anything_is_split_in_time(text: str) -> None:
    assert terms(text)


def test_a_query_gives_its_first_distinct_terms_with_the_words_they_stand_for() -> None:
    assert query_terms("Testing useEffect, tests", 10) == {
        "test": "Testing",
        "useeffect": "useEffect",
        "use": "useEffect",
        "effect": "useEffect",
    }
    assert list(query_terms("one two three four", 2)) == ["one", "two"]
    assert query_terms("", 5) == {}
    assert query_terms("the", 5) == {}


def test_term_hashes_stay_as_stores_keep_them() -> None:
    assert term_hash("input") == 1_452_443_887_097_238_118
    assert term_hash("input") != term_hash("inputs")


@given(st.text())
def test_any_text_gives_terms_that_count_and_survive_bytes(text: str) -> None:
    counts = count_terms([Field(text, 1.0)])
    again = TermCounts.from_bytes(counts.to_bytes())
    assert len(counts.hashes) == len(set(terms(text)))
    assert float(counts.counts.sum()) == len(terms(text))
    assert list(counts.hashes) == sorted(counts.hashes)
    np.testing.assert_array_equal(again.hashes, counts.hashes)
    np.testing.assert_array_equal(again.counts, counts.counts)


def test_a_term_counts_by_the_weight_of_its_field() -> None:
    counts = count_terms([Field("red blue", 2.0), Field("red", 1.0), Field("", 5.0)])
    found = dict(zip(counts.hashes.tolist(), counts.counts.tolist(), strict=True))
    assert found == {term_hash("red"): 3.0, term_hash("blue"): 2.0}


def test_words_of_a_long_field_count_less_and_those_of_a_short_one_more() -> None:
    def count_of_red(text: str) -> float:
        counts = count_terms([Field(text, 1.0, usual_terms=4)])
        return float(counts.counts[counts.hashes == term_hash("red")][0])

    assert count_of_red("red blue green gray") == 1.0
    assert count_of_red("red") == pytest.approx(1 / (0.5 + 0.5 / 4))
    assert count_of_red("red blue green gray white black brown pink") == pytest.approx(1 / 1.5)


def bm25(documents: list[str], query: list[str]) -> list[float]:
    """Robertson's formula, document by document."""
    counted = [Counter(terms(document)) for document in documents]
    scores = []
    for counts in counted:
        score = 0.0
        for term in query:
            frequency = sum(term in others for others in counted)
            idf = math.log(1 + (len(documents) - frequency + 0.5) / (frequency + 0.5))
            score += idf * counts[term] * (K1 + 1) / (counts[term] + K1) if counts[term] else 0.0
        scores.append(score)
    return scores


def indexed(documents: list[str]) -> Bm25:
    return Bm25([count_terms([Field(document, 1.0)]).to_bytes() for document in documents])


@pytest.mark.parametrize("seed", range(8))
def test_scores_are_those_of_the_formula(seed: int) -> None:
    random = np.random.default_rng(seed)
    vocabulary = [f"word{i}" for i in range(12)]
    documents = [" ".join(random.choice(vocabulary, random.integers(0, 30))) for _ in range(40)]
    index = indexed(documents)
    for _ in range(5):
        query = list(dict.fromkeys(terms(" ".join(random.choice([*vocabulary, "absent"], 5)))))
        scores, bound = index.scores(query)
        assert scores == pytest.approx(bm25(documents, query), rel=1e-4, abs=1e-6)
        assert float(scores.max()) <= bound + 1e-5


def test_the_highest_score_possible_is_reached_by_the_best_rule_of_one_term() -> None:
    scores, bound = indexed(["red red", "red blue green", "blue"]).scores(["red"])
    assert float(scores.max()) == pytest.approx(bound)


@pytest.mark.parametrize("documents", [[], [""], ["", "", ""]], ids=["none", "one-empty", "empty"])
def test_an_index_without_words_scores_nothing(documents: list[str]) -> None:
    scores, bound = indexed(documents).scores(["red", "blue"])
    assert (scores.tolist(), bound) == ([0.0] * len(documents), 0.0)


def test_matched_terms_are_those_the_rule_holds_the_rarest_first() -> None:
    index = indexed(["red blue", "red", "red green"])
    assert index.matched(["red", "blue", "green", "absent"], [0]) == [("blue", "red")]
    assert index.matched(["blue"], [1, 0]) == [(), ("blue",)]
    assert index.matched([], [0]) == [()]
    assert index.matched(["red"], []) == []

from __future__ import annotations

import inspect
import re

import pytest

from symmetra_mcp import errors
from symmetra_mcp.errors import (
    NoProviderError,
    ProviderAuthError,
    ProviderNotInstalledError,
    RateLimitError,
    RuleNotFoundError,
    SpaceMismatchError,
    SymmetraError,
)
from symmetra_mcp.spaces import EmbeddingSpace

CLASSES = [
    each
    for _, each in inspect.getmembers(errors, inspect.isclass)
    if each.__module__ == errors.__name__ and issubclass(each, Exception)
]


def documented_parents() -> dict[str, str]:
    """The tree at the top of the module: each error with the error above it."""
    parents: dict[str, str] = {}
    above: list[str] = []
    for line in (errors.__doc__ or "").partition("```")[2].partition("```")[0].strip().splitlines():
        found = re.search(r"\w+", line)
        assert found
        depth = found.start() // 3
        above[depth:] = [found.group()]
        parents[found.group()] = above[depth - 1] if depth else "Exception"
    return parents


def test_the_tree_in_the_documentation_is_the_tree_of_the_classes() -> None:
    assert documented_parents() == {each.__name__: each.__mro__[1].__name__ for each in CLASSES}


@pytest.mark.parametrize("error", CLASSES, ids=lambda each: each.__name__)
def test_every_error_is_ours_and_says_what_it_is(error: type[Exception]) -> None:
    assert issubclass(error, SymmetraError)
    assert error.__doc__


def test_a_missing_package_is_an_import_error_too() -> None:
    assert issubclass(ProviderNotInstalledError, ImportError)


def test_a_space_mismatch_holds_both_spaces_and_names_the_repair() -> None:
    ours, theirs = EmbeddingSpace("local", "minilm", 384), EmbeddingSpace("openai", "small", 384)
    error = SpaceMismatchError(expected=ours, actual=theirs)
    assert (error.expected, error.actual) == (ours, theirs)
    for part in (str(ours), str(theirs), "`symmetra-mcp reembed`"):
        assert part in str(error)


def test_a_provider_error_holds_who_failed() -> None:
    error = ProviderAuthError("the key was refused", provider="openai", model="small")
    assert (str(error), error.provider, error.model) == ("the key was refused", "openai", "small")


def test_a_rate_limit_holds_the_wait_that_the_vendor_asked_for() -> None:
    assert RateLimitError("slow down", provider="cohere", retry_after_s=2.5).retry_after_s == 2.5
    assert RateLimitError("slow down", provider="cohere").retry_after_s is None


def test_no_provider_groups_the_causes_in_order() -> None:
    causes = [ProviderAuthError("a", provider="openai"), RateLimitError("b", provider="cohere")]
    error = NoProviderError("none answered", causes=causes)
    assert (error.causes, error.provider) == (tuple(causes), "auto")
    assert NoProviderError("none").causes == ()


def test_a_missing_rule_holds_the_id_that_was_asked_for() -> None:
    error = RuleNotFoundError("pin", "shop")
    assert (error.rule_id, str(error)) == (
        "pin",
        "no rule 'pin' in project 'shop': `symmetra-mcp rules list` shows the ids",
    )

from __future__ import annotations

import pytest

from symmetra_mcp.languages import languages_of_code

CODE = {
    "python": "def total(prices: list[int]) -> int:\n    return sum(price for price in prices if price is not None)",
    "javascript": "const total = prices.filter((price) => price !== undefined).length;",
    "typescript": "interface Price {\n  amount: number;\n}\nexport const cents = (price: Price) => price.amount;",
    "rust": "pub fn total(prices: &[u32]) -> Option<u32> {\n    prices.iter().copied().max()\n}",
    "go": "func total(prices []int) (int, error) {\n\tif err != nil {\n\t\treturn 0, err\n\t}\n}",
    "java": "public class Prices {\n    private final int total = 0;\n    @Override public String a() { return b; }\n}",
    "csharp": "using System;\npublic class Price\n{\n    public int Cents { get; set; }\n}",
    "kotlin": "data class Price(val cents: Int)\nfun total(prices: List<Price>) = prices.sumOf { it.cents }",
    "swift": "guard let price = prices.first else { return }\nif let total = price.total { print(total) }",
    "ruby": "def total(prices)\n  prices.each do |price|\n    puts price\n  end\nend",
    "php": "<?php\nfunction total($prices) {\n    return array_sum($prices);\n}",
    "cpp": "#include <vector>\nint total(const std::vector<int>& prices) { return 0; }",
    "sql": "SELECT sum(cents) FROM prices GROUP BY shop ORDER BY 1",
    "bash": '#!/usr/bin/env bash\nif [ -z "$1" ]; then\n  echo "no file" >&2\nfi',
    "terraform": 'resource "aws_s3_bucket" "prices" {\n  bucket = "prices"\n}',
    "css": ".price {\n  color: red;\n  margin: 0;\n}",
}


@pytest.mark.parametrize("stack", CODE)
def test_the_language_of_code_is_told(stack: str) -> None:
    assert stack in languages_of_code(CODE[stack])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "where should embeddings be stored?",
        "Use `os.path.join` rather than string concatenation (it is portable).",
        "Functions with many return statements are harder to understand; select one from the list.",
        "Recognize `self` and `None` in comments",
        "x = 1",
        "f(a, b)",
        "((((((((((((((((((((",
        "\0" * 5_000,
    ],
    ids=["empty", "question", "call-in-prose", "prose", "names-in-prose", "any", "any-call", "brackets", "zeros"],
)
def test_prose_and_code_of_any_language_tell_none(text: str) -> None:
    assert languages_of_code(text) == ()


def test_a_long_text_is_looked_at_in_its_head_alone() -> None:
    assert languages_of_code("hello " * 2_000 + CODE["python"]) == ()
    assert "python" in languages_of_code(CODE["python"] + "\n" + "x" * 1_000_000)

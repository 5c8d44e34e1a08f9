"""YAML whose scalars stay the text their author wrote: `no` is not False, `1.10` is not 1.1, a date is not a date."""

from __future__ import annotations

from typing import Any

import yaml

MAX_DEPTH = 40
"""Levels a rule file may nest. The C parser recurses per level, and a hostile file would end the process."""

_BaseLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_NULL = "tag:yaml.org,2002:null"
_NESTING_PROBLEM = "exceeded maximum nesting depth"


class TextLoader(_BaseLoader):  # type: ignore[misc]  # chosen when PyYAML is imported: with libyaml or without
    """Strings, nulls, lists and mappings; nothing else is recognised."""

    yaml_implicit_resolvers = {  # noqa: RUF012  # PyYAML reads this class attribute
        first: [(tag, pattern) for tag, pattern in resolvers if tag == _NULL]
        for first, resolvers in _BaseLoader.yaml_implicit_resolvers.items()
    }


def load_text_yaml(text: str) -> object:
    """The first document of `text`.

    Raises:
        yaml.YAMLError: It is not YAML, or nests too deeply.
    """
    check_depth(text)
    try:
        return yaml.load(text, Loader=TextLoader)
    except (ValueError, TypeError, RecursionError) as exc:  # unhashable keys, bad escapes
        raise yaml.YAMLError(f"{type(exc).__name__} while reading YAML") from exc


def compose_text_yaml(text: str) -> tuple[yaml.Node | None, TextLoader]:
    """The node tree of `text`, whose nodes know their lines, and the loader that turns nodes into values.

    Raises:
        yaml.YAMLError: It is not YAML, or nests too deeply.
    """
    check_depth(text)
    loader = TextLoader(text)
    return loader.get_single_node(), loader


def check_depth(text: str) -> None:
    """Refuse what nests more than `MAX_DEPTH` levels, before anything recurses.

    Raises:
        yaml.YAMLError: It does, or is not YAML.
    """
    too_deep = f"nested more than {MAX_DEPTH} levels deep"
    depth = 0
    try:
        for event in yaml.parse(text, Loader=TextLoader):
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
                if depth > MAX_DEPTH:
                    raise yaml.YAMLError(too_deep)
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
    except yaml.MarkedYAMLError as exc:
        # libyaml 0.2.6 (in PyYAML 6.0.4) has a limit of its own, and meets it while it looks ahead of the first event.
        if exc.problem == _NESTING_PROBLEM:
            raise yaml.YAMLError(too_deep) from None
        raise

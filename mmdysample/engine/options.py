"""``--cfg-options KEY=VALUE ...``: settings that replace those of a config.

The values are mmengine's, except that white space stays: a value is a number, True, False, None or
text, ``a,b`` and ``[a,b]`` are lists and ``(a,b)`` is a tuple, of any depth. What stands in quotes
is text as it is, commas, brackets and all.
"""

from __future__ import annotations

import argparse
from typing import Any

HELP = (
    'a list is KEY="[a,b]" or KEY=a,b, nested KEY="[(a,b),(c,d)]"; white space within a value is '
    "kept, and a value in quotes of its own, KEY=\"'a,b'\", is text as it stands"
)
_PAIRS = {"[": "]", "(": ")"}
_QUOTES = "'\""


class CfgOptions(argparse.Action):
    """Collects ``KEY=VALUE`` in a dict."""

    def __call__(self, parser, namespace, values, option_string=None):
        options = dict(getattr(namespace, self.dest, None) or {})
        for text in values:
            key, equals, value = text.partition("=")
            if not equals or not key:
                parser.error(f"--cfg-options takes KEY=VALUE, got {text!r}")
            try:
                options[key] = parse_value(value)
            except ValueError as error:
                parser.error(f"--cfg-options {text}: {error}")
        setattr(namespace, self.dest, options)


def parse_value(text: str) -> Any:
    """The value that ``text`` writes; ValueError if its brackets or quotes do not match."""
    text = text.strip()
    if "," not in text and text[:1] not in (*_PAIRS, *_QUOTES):
        return _parse_word(text)
    parts = _split(text)
    if len(parts) > 1:
        return _parse_all(parts)
    if len(text) >= 2 and text[0] in _QUOTES and text[-1] == text[0]:
        return text[1:-1]
    if text[:1] in _PAIRS and text.endswith(_PAIRS[text[0]]):
        values = _parse_all(_split(text[1:-1]))
        return tuple(values) if text[0] == "(" else values
    return _parse_word(text)


def _parse_all(parts: list[str]) -> list:
    if not parts[-1].strip():
        parts = parts[:-1]  # nothing, or what follows a last comma
    return [parse_value(part) for part in parts]


def _split(text: str) -> list[str]:
    """``text`` at the commas that stand in no brackets and no quotes."""
    parts, start, closing, quote = [], 0, [], ""
    for place, letter in enumerate(text):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in _QUOTES and not text[start:place].strip(" [("):
            quote = letter  # where a value begins: an apostrophe within a word is none
        elif letter in _PAIRS:
            closing.append(_PAIRS[letter])
        elif letter in _PAIRS.values():
            if not closing or closing.pop() != letter:
                raise ValueError("its brackets do not match")
        elif letter == "," and not closing:
            parts.append(text[start:place])
            start = place + 1
    if closing:
        raise ValueError("its brackets do not match")
    if quote:
        raise ValueError("its quotes do not match")
    return [*parts, text[start:]]


def _parse_word(text: str) -> int | float | bool | str | None:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return {"true": True, "false": False, "None": None}.get(
        text if text == "None" else text.lower(), text
    )

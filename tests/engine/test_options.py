"""``--cfg-options``: mmengine's values, and white space stays."""

from __future__ import annotations

import argparse
import random

import pytest

from mmdysample.engine.options import CfgOptions, parse_value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("my shapes", "my shapes"),
        ("/data/my [old] shapes", "/data/my [old] shapes"),
        ("smile :)", "smile :)"),
        ("it's", "it's"),
        ("[my shapes, 1, b]", ["my shapes", 1, "b"]),
        ("a b,c d", ["a b", "c d"]),
        ("don't, won't", ["don't", "won't"]),
        ("'a, b'", "a, b"),
        ('"1"', "1"),
        ("['a, b', (c, 2)]", ["a, b", ("c", 2)]),
        (" 3 ", 3),
        ("(1,2),(3,4)", [(1, 2), (3, 4)]),
        ("", ""),
        ("[]", []),
        ("()", ()),
        ("a,", ["a"]),
    ],
)
def test_values(text, value):
    assert parse_value(text) == value
    assert type(parse_value(text)) is type(value)


@pytest.mark.parametrize("text", ["[(1,2]", "[1,2", "1,2]", "[1)", "['a, b]"])
def test_what_does_not_match_is_refused(text):
    with pytest.raises(ValueError, match="do not match"):
        parse_value(text)


WORDS = ["1", "-2", "3.5", "1e-4", "inf", "True", "false", "None", "none", "abc", "a.b/c", "1x"]


def written(generator: random.Random, depth: int = 0) -> str:
    if depth == 3 or generator.random() < 0.5:
        return generator.choice(WORDS)
    inside = [written(generator, depth + 1) for _ in range(generator.randrange(4))]
    opening, closing = generator.choice(["[]", "()"])
    return opening + ",".join(inside) + closing


def test_without_white_space_values_are_mmengines():
    reason = "needs mmengine: bash tools/setup_env.sh installs it"
    theirs = pytest.importorskip("mmengine.config", reason=reason).DictAction._parse_iterable
    generator = random.Random(0)
    for text in [written(generator) for _ in range(2000)]:
        assert repr(parse_value(text)) == repr(theirs(text)), text


def test_options_are_collected():
    parser = argparse.ArgumentParser()
    parser.add_argument("--cfg-options", nargs="+", action=CfgOptions)
    args = parser.parse_args(
        ["--cfg-options", "a.b=my shapes", "c=1=2", "--cfg-options", "d=[1, 2]"]
    )
    assert args.cfg_options == {"a.b": "my shapes", "c": "1=2", "d": [1, 2]}

"""``--cfg-options``: mmengine's values, and white space stays."""

from __future__ import annotations

import argparse

import pytest

pytest.importorskip("mmengine", reason="needs mmengine: bash tools/setup_env.sh installs it")

from mmengine.config import DictAction

from mmdysample.engine.options import CfgOptions


def parse(*options: str, action: type = CfgOptions) -> dict:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cfg-options", nargs="+", action=action)
    return parser.parse_args(["--cfg-options", *options]).cfg_options


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("my shapes", "my shapes"),
        ("/data/my [old] shapes", "/data/my [old] shapes"),
        ("smile :)", "smile :)"),
        ("it's", "it's"),
        ("[my shapes, 1, b ]", ["my shapes", 1, "b"]),
        ("a b,c d", ["a b", "c d"]),
        ("don't, won't", ["don't", "won't"]),
        ("'a, b'", "a, b"),
        ("' a'", " a"),
        ('"1"', "1"),
        ("['a, b)', (c, 2)]", ["a, b)", ("c", 2)]),
        (" 3 ", 3),
    ],
)
def test_white_space_and_quotes(text, value):
    assert parse(f"key={text}") == {"key": value}


@pytest.mark.parametrize(
    "text",
    [
        *("1", "-2", "3.5", "1e-4", "True", "false", "None", "none", "a.b/c", "1x", ""),
        *("[]", "()", "a,", "1,a", "[1,(2.5,[a,None]),(True,)]", "[(1,2),(3,4)]", "a=b"),
    ],
)
def test_without_white_space_values_are_mmengines(text):
    assert repr(parse(f"key={text}")) == repr(parse(f"key={text}", action=DictAction))


@pytest.mark.parametrize("text", ["key=[(1,2]", "key=[1,2", "key=1,2]", "key", "=1"])
def test_what_does_not_fit_is_refused(text, capsys):
    with pytest.raises(SystemExit):
        parse("a=1", text)
    says = "do not match" if text.startswith("key=") else "takes KEY=VALUE"
    assert says in capsys.readouterr().err


def test_options_are_collected():
    parser = argparse.ArgumentParser()
    parser.add_argument("--cfg-options", nargs="+", action=CfgOptions)
    args = parser.parse_args(
        ["--cfg-options", "a.b=my shapes", "c=1=2", "--cfg-options", "d=[1, 2]"]
    )
    assert args.cfg_options == {"a.b": "my shapes", "c": "1=2", "d": [1, 2]}

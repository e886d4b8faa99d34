"""``--cfg-options KEY=VALUE ...``: settings that replace those of a config.

The values are mmengine's, except that white space within them stays, and that what stands in quotes
is text as it is, commas, brackets and all.
"""

from __future__ import annotations

import re
from typing import Any

from mmengine.config import DictAction

HELP = (
    'a list is KEY="[a,b]" or KEY=a,b, nested KEY="[(a,b),(c,d)]"; white space within a value is '
    "kept, and a value in quotes of its own, KEY=\"'a,b'\", is text as it stands"
)
# Characters of nobody's stand for those that mmengine would remove or take for its syntax.
_HIDDEN = {ord(char): 0xE000 + number for number, char in enumerate(" ,[]()'\"")}
_SHOWN = {hidden: char for char, hidden in _HIDDEN.items()}
_TEXT = "\ue100"  # before what is no number
_QUOTED = re.compile(r"""(^|[,\[(])\s*(['"])(.*?)\2(?=\s*(?:$|[,\])]))""")
_SPACE_WITHIN = re.compile(r"(?<=[^\s,\[(])\s+(?=[^\s,\])])")


class CfgOptions(DictAction):
    """Collects ``KEY=VALUE`` in a dict."""

    def __call__(self, parser, namespace, values, option_string=None):
        for text in values:
            key, equals, value = text.partition("=")
            if not equals or not key:
                parser.error(f"--cfg-options takes KEY=VALUE, got {text!r}")
            try:
                super().__call__(parser, namespace, [f"{key}={_hide(value)}"], option_string)
            except AssertionError:
                parser.error(f"--cfg-options {text}: its brackets do not match")
            options = getattr(namespace, self.dest)
            options[key] = _show(options[key])


def _hide(text: str) -> str:
    text = _QUOTED.sub(lambda found: found[1] + _TEXT + found[3].translate(_HIDDEN), text)
    return _SPACE_WITHIN.sub(lambda found: found[0].translate(_HIDDEN), text)


def _show(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return type(value)(_show(one) for one in value)
    return value.replace(_TEXT, "").translate(_SHOWN) if isinstance(value, str) else value

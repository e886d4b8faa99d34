"""Configs as mmengine writes them, read as data: nothing in them runs."""

from __future__ import annotations

import ast
import math
from pathlib import Path
from typing import Any

MAX_BYTES = 1_000_000
"""A config of this project takes some 20,000."""


def read_dump(path: Path) -> dict[str, Any]:
    """The settings in a config that mmengine has written, which are plain values.

    Raises:
        ValueError: there is something else in it, such as a call or an import.
    """
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"it has more than {MAX_BYTES} bytes")
    try:
        lines = ast.parse(path.read_text(encoding="utf-8")).body
        return dict(_setting(line) for line in lines)
    except SyntaxError as error:
        raise ValueError(f"line {error.lineno}: {error.msg}") from error
    except (RecursionError, MemoryError) as error:
        raise ValueError("it is nested too deeply") from error


def _setting(line: ast.stmt) -> tuple[str, Any]:
    match line:
        case ast.Assign(targets=[ast.Name(id=name)], value=value):
            return name, _value(value)
    raise ValueError(f"line {line.lineno} is not NAME = VALUE")


def _value(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Name(id="inf" | "nan" as name):
            return float(name)
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return -value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Name(id="inf")):
            return -math.inf
        case ast.List(elts=items):
            return [_value(item) for item in items]
        case ast.Tuple(elts=items):
            return tuple(_value(item) for item in items)
        case ast.Dict(keys=keys, values=values) if all(isinstance(k, ast.Constant) for k in keys):
            return {k.value: _value(v) for k, v in zip(keys, values, strict=True)}
        case ast.Call(func=ast.Name(id="dict"), args=[], keywords=named) if all(
            each.arg for each in named
        ):
            return {each.arg: _value(each.value) for each in named}
        case ast.Call(func=ast.Name(id="dict"), args=[ast.Dict() as only], keywords=[]):
            return _value(only)
    raise ValueError(f"line {node.lineno} holds {ast.unparse(node)[:60]}, which is no plain value")

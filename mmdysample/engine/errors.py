"""A user's error is one sentence on stderr and exit status 2; a bug shows its traceback.

Code that knows what the user did wrong raises `UserError`. What other libraries raise for bad
configs, data and files is put into words by the explainers below, each of which looks at one
exception and returns a sentence or None.
"""

from __future__ import annotations

import argparse
import ast
import errno
import inspect
import linecache
import os
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from http.client import HTTPException
from json import JSONDecodeError
from pathlib import Path
from types import FrameType
from urllib.error import URLError

from mmdysample.errors import UserError
from mmdysample.registry import did_you_mean

USER_ERROR_STATUS = 2
INTERRUPTED_STATUS = 130
DEBUG_VARIABLE = "MMDYSAMPLE_DEBUG"
# torchrun kills the other processes well within this time after the first one has failed.
SECONDS_LEFT_TO_RANK_ZERO = 3.0
OUT_OF_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

_PACKAGE = str(Path(__file__).resolve().parents[1])
_PRETRAINED = os.path.join("model", "weight_init.py")
_BUILDER = os.path.join("registry", "build_functions.py")
# Between a builder and what is wrong with the settings it gave; the second makes visualizers.
_CALLS = ("__init__", "get_instance")
_EXPLAINERS: list[Callable[[BaseException], str | None]] = []


class ArgumentParser(argparse.ArgumentParser):
    """argparse with errors in the form of all others: one sentence, exit status 2."""

    def error(self, message: str):
        self.exit(USER_ERROR_STATUS, f"error: {message} (--help lists the arguments)\n")


def run_tool(main: Callable[[], int | None]) -> int:
    """Run a tool's ``main`` and return its exit status: what ``main`` returns, None for 0.

    ``MMDYSAMPLE_DEBUG=1`` in the environment shows the traceback of a user's error as well.
    """
    try:
        return main() or 0
    except KeyboardInterrupt as error:
        if is_rank_zero():
            print(f"\ninterrupted{_hint(error)}", file=sys.stderr, flush=True)
        return INTERRUPTED_STATUS
    except Exception as error:
        sentence = explain(error)
        if sentence is None or os.environ.get(DEBUG_VARIABLE, "0") not in ("", "0"):
            raise
        _leave_to_rank_zero()
        print(f"error: {sentence}", file=sys.stderr, flush=True)
        return USER_ERROR_STATUS


def explain(error: BaseException) -> str | None:
    """One sentence about what the user did wrong, or None if ``error`` looks like a bug."""
    for link in _chain(error):
        for explainer in _EXPLAINERS:
            sentence = explainer(link)
            if sentence:
                return " ".join(sentence.split())
    return None


def frames(error: BaseException) -> list[FrameType]:
    """Frames of an exception's traceback, the one that raised it last."""
    return [frame for frame, _ in traceback.walk_tb(error.__traceback__)]


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or link.__context__


def add_hint(error: BaseException, hint: str) -> None:
    """Add to an interrupt or a full disk what the user can do about it."""
    # As `add_note` does, which Python 3.10 does not have.
    error.__notes__ = [*getattr(error, "__notes__", []), hint]


def _hint(error: BaseException) -> str:
    return "".join(f"; {note}" for note in getattr(error, "__notes__", []))


def is_rank_zero() -> bool:
    # The process group, which would know, may be what has failed.
    return os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0"


def _leave_to_rank_zero() -> None:
    """All processes of a run mostly fail alike: give the first one the time to say so alone."""
    if not is_rank_zero():
        time.sleep(SECONDS_LEFT_TO_RANK_ZERO)


def _explainer(
    *types: type[BaseException],
) -> Callable[[Callable[[BaseException], str | None]], Callable[[BaseException], str | None]]:
    def register(function):
        def explainer(error: BaseException) -> str | None:
            return function(error) if isinstance(error, types) else None

        _EXPLAINERS.append(explainer)
        return function

    return register


def _local(error: BaseException, *names: str) -> object | None:
    """The innermost local variable of one of ``names`` in the traceback."""
    for frame in reversed(frames(error)):
        for name in names:
            if name in frame.f_locals:
                return frame.f_locals[name]
    return None


def _statement(error: BaseException) -> ast.stmt | None:
    """The ``raise`` or ``assert`` that raised ``error``; None if a statement failed unforeseen."""
    frame, line = list(traceback.walk_tb(error.__traceback__))[-1]
    path = frame.f_code.co_filename
    source = "".join(linecache.getlines(path)) if path.endswith(".py") else ""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Raise, ast.Assert)) and node.lineno <= line <= node.end_lineno:
            return node
    return None


def _constructed(error: BaseException) -> type | None:
    """The class that a config asked for and that could not be made from its settings.

    Given only if ``error`` was raised by the call of the class, its ``__init__`` or one that it
    inherits; not if something that these use has failed.
    """
    stack = frames(error)
    built = [i for i, f in enumerate(stack) if f.f_code.co_filename.endswith(_BUILDER)]
    if not built:
        return None
    made, inner = stack[built[-1]].f_locals.get("obj_cls"), stack[built[-1] + 1 :]
    if not inspect.isclass(made) or any(f.f_code.co_name not in _CALLS for f in inner):
        return None
    owners = {id(frame.f_locals["self"]) for frame in inner if "self" in frame.f_locals}
    return made if len(owners) <= 1 else None


def _raised_in(error: BaseException, path_end: str) -> bool:
    stack = frames(error)
    return bool(stack) and stack[-1].f_code.co_filename.endswith(path_end)


@_explainer(UserError)
def _said_already(error: UserError) -> str:
    # A DataLoader worker hands its exception over as text with the traceback in front.
    return re.split(r"(?:^|\n)[\w.]*UserError: ", str(error))[-1].strip()


@_explainer(ValueError, TypeError)
def _raised_by_mmdysample(error: Exception) -> str | None:
    """The library's own checks name the argument, its value and what is accepted."""
    stack = list(traceback.walk_tb(error.__traceback__))
    if not stack or not stack[-1][0].f_code.co_filename.startswith(_PACKAGE):
        return None
    frame, line = stack[-1]
    on_purpose = linecache.getline(frame.f_code.co_filename, line).strip().startswith("raise ")
    return str(error) if on_purpose else None


@_explainer(KeyError)
def _unknown_type(error: KeyError) -> str | None:
    found = re.match(r"['\"]?(\S+) is not in the (?:\S+::)?(.+?) registry", str(error))
    if not found:
        return None
    name, registry_name = found.groups()
    registry = _local(error, "registry")
    known = {} if registry is None else _registered(registry)
    homes = sorted(known.get(name, ()))
    if homes:
        hint = f": it belongs to {' and '.join(homes)}, is default_scope of this config right?"
    else:
        hint = did_you_mean(name, known)
    return f"type {name!r} is not known in the registry of {registry_name}s{hint}"


def _registered(registry) -> dict[str, set[str]]:
    """Names in a registry, its ancestors and its siblings, with the scopes that hold them."""
    root = registry
    while root.parent is not None:
        root = root.parent
    known: dict[str, set[str]] = {}
    for each in (root, *root.children.values()):
        for name in each.module_dict:
            known.setdefault(name, set()).add(each.scope)
    return known


@_explainer(KeyError)
def _type_left_out(error: KeyError) -> str | None:
    if "must contain the key" not in str(error):
        return None
    keys = ", ".join(_local(error, "cfg") or ())
    return f"a part of the config has no 'type'; its keys are: {keys or 'none'}"


@_explainer(TypeError)
def _wrong_settings(error: TypeError) -> str | None:
    """A class, or one that it inherits from and hands its settings to, is called with others."""
    found = re.match(r"([\w.]+)\.__init__\(\) (.*)", str(error))
    kind = _constructed(error)
    if found is None or kind is None:
        return None
    owner, complaint = found.groups()
    if owner not in {base.__qualname__ for base in kind.__mro__}:
        return None
    key = re.match(r"got an unexpected keyword argument '(.+)'", complaint)
    if key is not None:
        return f"{kind.__name__} has no setting {key[1]!r}{did_you_mean(key[1], _settings(kind))}"
    missing = re.match(r"missing .*required .*argument", complaint)
    return f"the config does not fit its type: {kind.__name__} is {complaint}" if missing else None


def _settings(kind: type) -> set[str]:
    """Names of the arguments that a class and those it inherits from take."""
    return {
        name
        for base in kind.__mro__
        if "__init__" in vars(base) and base is not object
        for name in inspect.signature(vars(base)["__init__"]).parameters
        if name not in ("self", "args", "kwargs")
    }


@_explainer(TypeError)
def _wrong_arguments(error: TypeError) -> str | None:
    """A config's keys are arguments: a call from mmengine's builders that does not fit them."""
    if re.search(
        r"(unexpected keyword argument|required (positional|keyword-only) arg)", str(error)
    ):
        builders = ("registry/build_functions.py", "runner/runner.py", "optimizer/builder.py")
        if any(_raised_in(error, builder) for builder in builders):
            return f"the config does not fit its type: {error}"
    return None


@_explainer(AssertionError, ValueError, TypeError)
def _refused_by_a_constructor(error: Exception) -> str | None:
    """A class checks its settings and does not like what the config gave it."""
    made = _constructed(error)
    statement = None if made is None else _statement(error)
    if statement is None:
        return None
    kind = made.__name__
    if str(error):
        return f"{kind} does not take its settings in the config: {error}"
    if not isinstance(statement, ast.Assert):
        return None
    frame = frames(error)[-1]
    where = f"{Path(frame.f_code.co_filename).name}, line {statement.lineno}"
    values = _plain_values(statement.test, frame.f_locals)
    shown = ", ".join(f"{name}={value!r}" for name, value in values.items())
    return (
        f"{kind} does not take its settings in the config: it needs "
        f"{ast.unparse(statement.test)} ({where}){f', got {shown}' if shown else ''}"
    )


def _plain_values(condition: ast.expr, known: dict) -> dict[str, object]:
    """``name`` or ``self.name`` in a condition -> its value, if that is a number, text or list."""
    found = {}
    for node in ast.walk(condition):
        if isinstance(node, ast.Name):
            found[node.id] = known.get(node.id)
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "self":
            found[f"self.{node.attr}"] = getattr(known.get("self"), node.attr, None)
    plain = (bool, int, float, str, list, tuple)
    return {text: value for text, value in found.items() if isinstance(value, plain)}


@_explainer(IndexError)
def _label_beyond_the_classes(error: IndexError) -> str | None:
    # Of cross entropy; of MaskFormer's matching, which has one class more for 'nothing'.
    found = re.fullmatch(r"Target (-?\d+) is out of bounds\.?", str(error)) or re.fullmatch(
        r"index (\d+) is out of bounds for dimension 0 with size \d+", str(error)
    )
    owners = [frame.f_locals.get("self") for frame in frames(error)]
    heads = [owner for owner in owners if hasattr(owner, "num_classes")]
    if found is None or not heads or 0 <= int(found[1]) < heads[-1].num_classes:
        return None
    kind, classes = type(heads[-1]).__name__, heads[-1].num_classes
    return (
        f"the labels of the data set hold {found[1]}, but {kind} has num_classes={classes}: set "
        "num_classes to the number of the data set's classes, and look whether its "
        "reduce_zero_label is right"
    )


@_explainer(JSONDecodeError)
def _broken_json(error: JSONDecodeError) -> str:
    path = _local(error, "annotation_file", "ann_file", "file", "filename")
    where = path if isinstance(path, (str, Path)) else "a file"
    return f"{where} is not valid JSON: {error}"


@_explainer(AssertionError)
def _unreadable_file(error: AssertionError) -> str | None:
    found = re.search(r"failed to load (?:image|`ann_file`):? (.+)", str(error), re.IGNORECASE)
    if not found:
        return None
    path = found.group(1).strip()
    if not os.path.exists(path):
        return f"{path} does not exist"
    return f"{path} cannot be read: it is damaged or in no known format"


@_explainer(URLError, HTTPException, ConnectionError, TimeoutError)
def _not_downloaded(error: Exception) -> str | None:
    stack = frames(error)
    places = [frame.f_locals.get(name) for frame in stack for name in ("url", "filename")]
    urls = [place for place in places if isinstance(place, str) and "://" in place]
    if not urls:
        return None
    reason = str(getattr(error, "reason", None) or error or type(error).__name__)
    hint = " in place of this address"
    if any(frame.f_code.co_filename.endswith(_PRETRAINED) for frame in stack):
        hint = (
            " (--cfg-options model.backbone.init_cfg.checkpoint=PATH), or start from random "
            "weights (--cfg-options model.backbone.init_cfg=None)"
        )
    return (
        f"{urls[-1]} cannot be downloaded ({reason}): download it elsewhere and give its path{hint}"
    )


@_explainer(OSError)
def _file_system(error: OSError) -> str | None:
    path = error.filename if error.filename is not None else _local(error, "filepath", "path")
    if error.errno in OUT_OF_SPACE:
        return f"no space left to write {path or 'a file'}{_hint(error)}"
    if error.errno is None or error.filename is None:
        return None
    return f"{error.filename}: {os.strerror(error.errno).lower()}"


@_explainer(FileNotFoundError)
def _missing_file(error: FileNotFoundError) -> str | None:
    # mmengine raises it with a text alone.
    return str(error) if error.errno is None and str(error) else None


@_explainer(ImportError)
def _missing_package(error: ImportError) -> str | None:
    if "panopticapi" in str(error):
        return (
            "this config loads or evaluates panoptic segments with panopticapi, which is not "
            "installed: use LoadPanopticSegments, PanopticQualityMetric and "
            "PanopticLocalVisualizer of mmdysample, as the configs in configs/panoptic_fpn do, or "
            "derive yours from one of them"
        )
    name = (error.name or "").split(".")[0]
    if name in ("mmcv", "mmdet", "mmengine", "mmseg"):
        return f"{name} is not installed or not complete ({error}); tools/setup_env.sh installs it"
    return None

"""Which class a ``type`` in a config names."""

from __future__ import annotations

from typing import Any

from mmengine.registry import Registry


def class_of(registry: Registry, kind: Any, scope: str | None = None) -> Any:
    """The class that building ``dict(type=kind)`` would call; None if it would find none.

    Args:
        registry: one of mmengine's, such as ``mmengine.registry.MODELS``.
        kind: a registered name, which may begin with a scope ('mmdet.ResNet'), or the class itself.
        scope: where to look first; the process's default scope if None.
    """
    if not isinstance(kind, str):
        return kind
    with registry.switch_scope_and_registry(scope) as scoped:
        try:
            return scoped.get(kind)
        except RuntimeError:  # what mmengine raises for some of the names that it does not find
            return None

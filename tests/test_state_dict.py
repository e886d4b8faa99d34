"""Helpers for reading other people's checkpoints."""

from __future__ import annotations

from mmdysample.state_dict import count_stages, rename_prefix


def test_count_stages_counts_modules_and_not_keys():
    counted = ["neck.up.0.weight", "neck.up.0.bias", "neck.up.2.weight", "neck.up.10.weight"]
    others = ["neck.upper.7.weight", "other.neck.up.5.weight", "up.3.weight"]
    state = dict.fromkeys([*counted, *others])
    assert count_stages(state, "neck.up.") == 3
    assert count_stages(state, "neck.down.") == 0
    assert count_stages({}, "") == 0


def test_rename_prefix_moves_what_starts_with_it():
    state = {"head.old.0.w": 1, "head.old.1.w": 2, "head.older.w": 3, "x.head.old.w": 4}
    rename_prefix(state, "head.old.", "head.new.")
    assert state == {"head.new.0.w": 1, "head.new.1.w": 2, "head.older.w": 3, "x.head.old.w": 4}


def test_rename_prefix_does_not_touch_a_state_without_it():
    state = {"head.new.0.w": 1}
    rename_prefix(state, "head.old.", "head.new.")
    assert state == {"head.new.0.w": 1}

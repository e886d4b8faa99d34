"""Categories of the Shapes data set.

A category's id is its position in `CATEGORIES` plus one, in every format: COCO's `category_id` and
the value in the ADE-style label maps. 0 is left for pixels without a label.
"""

from __future__ import annotations

from typing import NamedTuple


class Category(NamedTuple):
    name: str
    is_thing: bool
    color: tuple[int, int, int]
    """RGB for label maps and drawn predictions; images use colors of their own."""


CATEGORIES = (
    Category("disk", True, (230, 57, 70)),
    Category("ring", True, (247, 140, 30)),
    Category("star", True, (255, 209, 35)),
    Category("bar", True, (240, 240, 240)),
    Category("triangle", True, (32, 178, 110)),
    Category("cross", True, (0, 187, 212)),
    Category("crescent", True, (150, 90, 220)),
    Category("flower", True, (240, 98, 170)),
    Category("sky", False, (135, 190, 235)),
    Category("hills", False, (85, 115, 60)),
    Category("water", False, (35, 90, 160)),
    Category("ground", False, (175, 140, 95)),
)
THINGS = tuple(category.name for category in CATEGORIES if category.is_thing)
STUFF = tuple(category.name for category in CATEGORIES if not category.is_thing)
CATEGORY_ID = {category.name: index for index, category in enumerate(CATEGORIES, start=1)}

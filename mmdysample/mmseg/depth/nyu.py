"""Which part of an image of NYU Depth V2 is used."""

from __future__ import annotations

from collections.abc import Sequence

# Height and width of an image, of which the following are rows and columns.
SIZE = (480, 640)
# What is evaluated: Eigen et al., NIPS 2014.
EVALUATED = (45, 471), (41, 601)
# Inside of the white border that the Kinect's color images have there.
WITHOUT_BORDER = (45, 472), (43, 608)


def part_of(
    size: Sequence[int], part: tuple[tuple[int, int], tuple[int, int]]
) -> tuple[slice, slice]:
    """The rows and columns of an image of ``size`` that a ``part`` of one of NYU's is there.

    Each end is the nearest pixel's, the greater one of two.
    """
    rows, columns = (
        slice(*((2 * end * length + full) // (2 * full) for end in ends))
        for length, full, ends in zip(size, SIZE, part, strict=True)
    )
    return rows, columns

"""SAD, MSE, Grad and Conn of alpha mattes by their definitions: pixel by pixel, in fractions."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
from scipy import ndimage


def unknown_pixels(trimap: np.ndarray) -> list[tuple[int, int]]:
    height, width = trimap.shape
    return [
        (y, x) for y, x in itertools.product(range(height), range(width)) if trimap[y, x] == 128
    ]


def sad(pred: np.ndarray, true: np.ndarray, trimap: np.ndarray) -> float:
    places = unknown_pixels(trimap)
    return float(sum(abs(Fraction(int(pred[p]) - int(true[p]), 255)) for p in places) / 1000)


def mse(pred: np.ndarray, true: np.ndarray, trimap: np.ndarray) -> float:
    places = unknown_pixels(trimap)
    total = sum(Fraction(int(pred[p]) - int(true[p]), 255) ** 2 for p in places)
    return float(total / len(places))


def grad(pred: np.ndarray, true: np.ndarray, trimap: np.ndarray) -> float:
    lengths = gradient_length(pred), gradient_length(true)
    return sum((lengths[0][p] - lengths[1][p]) ** 2 for p in unknown_pixels(trimap)) / 1000


def gradient_length(alpha: np.ndarray) -> np.ndarray:
    scaled = (alpha - float(alpha.min())) / max(float(alpha.max()) - float(alpha.min()), 1.0)
    sigma = 1.4

    def gauss(x: int) -> float:
        return math.exp(-(x**2) / (2 * sigma**2)) / (sigma * math.sqrt(2 * math.pi))

    kernel = np.array(
        [[gauss(y) * -x * gauss(x) / sigma**2 for x in range(-4, 5)] for y in range(-4, 5)]
    )
    kernel /= math.sqrt(sum(value**2 for value in kernel.flat))
    along_x = ndimage.convolve(scaled, kernel, mode="nearest")
    along_y = ndimage.convolve(scaled, kernel.T, mode="nearest")
    return np.sqrt(along_x**2 + along_y**2)


def conn(pred: np.ndarray, true: np.ndarray, trimap: np.ndarray) -> float:
    height, width = pred.shape
    level: dict[tuple[int, int], Fraction] = {}
    for i in range(1, 11):
        threshold = Fraction(i, 10)
        reached = {
            (y, x)
            for y, x in itertools.product(range(height), range(width))
            if Fraction(int(pred[y, x]), 255) >= threshold
            and Fraction(int(true[y, x]), 255) >= threshold
        }
        if not reached:
            continue
        omega = largest_component(reached)
        for y, x in itertools.product(range(height), range(width)):
            if (y, x) not in omega and (y, x) not in level:
                level[y, x] = Fraction(i - 1, 10)
    total = Fraction(0)
    for place in unknown_pixels(trimap):
        phi = []
        for alpha in (pred, true):
            d = Fraction(int(alpha[place]), 255) - level.get(place, Fraction(1))
            phi.append(1 - d if d >= Fraction(15, 100) else Fraction(1))
        total += abs(phi[0] - phi[1])
    return float(total / 1000)


def largest_component(pixels: set[tuple[int, int]]) -> set[tuple[int, int]]:
    """The first of the largest 4-connected ones, going through the columns one by one."""
    left, best = set(pixels), set()
    for start in sorted(pixels, key=lambda place: (place[1], place[0])):
        if start not in left:
            continue
        left.remove(start)
        component, front = {start}, [start]
        while front:
            y, x = front.pop()
            for neighbor in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                if neighbor in left:
                    left.remove(neighbor)
                    component.add(neighbor)
                    front.append(neighbor)
        if len(component) > len(best):
            best = component
    return best

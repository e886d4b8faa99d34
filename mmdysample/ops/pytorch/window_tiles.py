"""The window products on any device, in tiles of small matrix products.

:mod:`window_autograd` says what they compute. Here is how. The coarse map is cut into blocks of T*T
pixels. What a block reads is the window of (T+K-1)^2 coarse pixels around it, which its (T*s)^2
pixels share. A matrix of those pixels by that window, which holds each pixel's K*K kernel in the
places of its own window and zeros elsewhere, makes the sums one small matrix product per block. The
zeros cost arithmetic, with T=4 and K=5 two and a half times of it, but spare what an unfolded map
costs in memory traffic. Blocks are taken a tile at a time, as many as fit in a cache, so that
nothing is held but a tile.

Zero times infinity is not a number, so a value that is not finite would spoil its whole block. On a
CPU such maps are noticed and computed by :mod:`window_taps` instead. On other devices, where
looking at values would stop the queue, a block is spoiled.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from mmdysample.ops import window_taps
from mmdysample.ops.checks import Window
from mmdysample.ops.layout import is_channels_last
from mmdysample.ops.precision import accumulation_dtype

# Tiles of this size stay in the caches of a processor, or fill a GPU.
CPU_TILE_BYTES = 8 * 2**20
GPU_TILE_BYTES = 256 * 2**20


def weighted_sum(coarse: Tensor, kernel: Tensor, window: Window, out: Tensor) -> None:
    """Each pixel's sum over its window of kernel * coarse into ``out``, (B, C, s*H, s*W)."""
    if has_nonfinite_on_cpu(coarse):
        out.copy_(window_taps.weighted_sum(coarse, kernel, window, out.dtype))
        return
    tiling = Tiling(coarse, out, kernel, window)
    windows, kernels, pixels = tiling.windows(), tiling.kernels(), tiling.pixels()
    for tile in tiling:
        n = tile.blocks
        tiling.load_windows(windows, coarse, tile)
        tiling.load_kernels(kernels, kernel, tile)
        matmul(kernels[:n], windows[:n], out=pixels[:n])
        tiling.store_pixels(out, pixels, tile)


def inner_product(pixels_map: Tensor, coarse: Tensor, window: Window, out: Tensor) -> None:
    """Each pixel's inner products with its window's pixels into ``out``, (B, g*K*K, s*H, s*W)."""
    tiling = Tiling(coarse, pixels_map, out, window)
    windows, kernels, pixels = tiling.windows(), tiling.kernels(), tiling.pixels()
    for tile in tiling:
        n = tile.blocks
        tiling.load_windows(windows, coarse, tile)
        tiling.load_pixels(pixels, pixels_map, tile)
        matmul(pixels[:n], windows[:n].transpose(1, 2), out=kernels[:n])
        tiling.store_kernels(out, kernels, tile)


def scattered_sum(pixels_map: Tensor, kernel: Tensor, window: Window, out: Tensor) -> None:
    """Each pixel times its kernel, added up where its window lies, into ``out``, (B, C, H, W)."""
    tiling = Tiling(out, pixels_map, kernel, window, accumulates=True)
    windows, kernels, pixels = tiling.windows(), tiling.kernels(), tiling.pixels()
    rows = tiling.accumulator()
    for tile in tiling:
        n = tile.blocks
        if tile.partial:  # what lies beyond the map must not be added
            kernels.zero_()
            pixels.zero_()
        tiling.load_kernels(kernels, kernel, tile)
        tiling.load_pixels(pixels, pixels_map, tile)
        matmul(kernels[:n].transpose(1, 2), pixels[:n], out=windows[:n])
        tiling.add_windows(rows, windows, tile)
        if tile.ends_rows:
            tiling.store_rows(out, rows, tile)
    if has_nonfinite_on_cpu(out):
        out.copy_(window_taps.scattered_sum(pixels_map, kernel, window, out.dtype))


def has_nonfinite_on_cpu(x: Tensor) -> bool:
    """Whether a value of ``x`` is infinite or NaN; False without looking if ``x`` is on no CPU."""
    if x.device.type != "cpu":
        return False
    # Both are NaN if any value is. A sum would be faster, but overflows in half precision.
    return not (math.isfinite(x.amin().item()) and math.isfinite(x.amax().item()))


def matmul(a: Tensor, b: Tensor, out: Tensor) -> None:
    """Batched a @ b into ``out``, whose rows or columns are contiguous.

    With ``out=`` autocast leaves a product alone, so float32 stays float32.
    """
    if out.is_contiguous():
        torch.bmm(a, b, out=out)
    else:
        torch.bmm(b.transpose(1, 2), a.transpose(1, 2), out=out.transpose(1, 2))


class Tile(NamedTuple):
    """Images ``image`` to ``image + images``, coarse rows from ``top``, columns from ``left``."""

    image: int
    top: int
    left: int
    images: int
    block_rows: int
    block_columns: int
    height: int
    width: int
    blocks: int
    partial: bool
    ends_rows: bool
    ends_image: bool


class Tiling:
    """Cuts the three maps into tiles of blocks, and moves blocks between maps and matrices.

    Matrices have a batch axis of blocks, ordered (image, group, block row, block column):
    windows are (blocks, P, C/g), pixels (blocks, Q, C/g) and kernels (blocks, Q, P) with
    P = (T+K-1)^2 and Q = (T*s)^2. Pixels are stored as their map is, channels first or last, so
    that copies run along contiguous memory; windows, of a map s*s times smaller, channels last.
    """

    def __init__(
        self,
        coarse: Tensor,
        pixels_map: Tensor,
        kernel: Tensor,
        window: Window,
        accumulates: bool = False,
    ) -> None:
        self.batch, channels, self.height, self.width = coarse.shape
        self.kernel_size, self.scale_factor, self.groups = window
        self.group_channels = channels // self.groups
        # Large blocks waste arithmetic, small ones copy more and make products too small.
        self.block = max(1, min(4, 8 // self.scale_factor))
        self.window = self.block + self.kernel_size - 1
        self.n_taps = self.window**2
        self.n_pixels = (self.block * self.scale_factor) ** 2
        self.channels_last = is_channels_last(pixels_map)
        dtype = accumulation_dtype(coarse, pixels_map, kernel)
        self.options = dict(dtype=dtype, device=coarse.device)
        self._scratch: Tensor | None = None
        # A tile stays below one buffer of the size of the larger map.
        room = max(fine.numel() * fine.dtype.itemsize for fine in (pixels_map, kernel)) * 3 // 4
        self._choose_tile(room, accumulates)

    def _choose_tile(self, room: int, accumulates: bool) -> None:
        """As many blocks as the cache and ``room``, in bytes, hold."""
        t, itemsize = self.block, self.options["dtype"].itemsize
        rows, columns = -(-self.height // t), -(-self.width // t)
        per_channel = self.n_taps + 2 * self.n_pixels + 2 * t**2  # copies and margins included
        per_block = self.group_channels * per_channel + self.n_taps * self.n_pixels
        per_block *= self.groups * itemsize
        if accumulates:
            area = 2 * t * (columns + 1) * t
            room -= area * self.groups * self.group_channels * itemsize
        on_cpu = self.options["device"].type == "cpu"
        room = min(room, CPU_TILE_BYTES if on_cpu else GPU_TILE_BYTES)
        blocks = max(1, room // per_block)
        self.tile_columns = even_share(columns, blocks)
        self.tile_rows = even_share(rows, blocks // columns)
        self.tile_images = even_share(self.batch, blocks // (columns * rows))
        self.max_blocks = self.tile_images * self.groups * self.tile_rows * self.tile_columns

    def __iter__(self) -> Iterator[Tile]:
        t = self.block
        for image in range(0, self.batch, self.tile_images):
            images = min(self.tile_images, self.batch - image)
            for top in range(0, self.height, t * self.tile_rows):
                height = min(t * self.tile_rows, self.height - top)
                for left in range(0, self.width, t * self.tile_columns):
                    width = min(t * self.tile_columns, self.width - left)
                    rows, columns = -(-height // t), -(-width // t)
                    yield Tile(
                        image,
                        top,
                        left,
                        images,
                        rows,
                        columns,
                        height,
                        width,
                        blocks=images * self.groups * rows * columns,
                        partial=bool(height % t or width % t),
                        ends_rows=left + width == self.width,
                        ends_image=top + height == self.height,
                    )

    # The matrices of a tile.

    def windows(self) -> Tensor:
        return torch.empty(self.max_blocks, self.n_taps, self.group_channels, **self.options)

    def pixels(self) -> Tensor:
        if self.channels_last:
            return torch.empty(self.max_blocks, self.n_pixels, self.group_channels, **self.options)
        size = (self.max_blocks, self.group_channels, self.n_pixels)
        return torch.empty(size, **self.options).transpose(1, 2)

    def kernels(self) -> Tensor:
        return torch.zeros(self.max_blocks, self.n_pixels, self.n_taps, **self.options)

    # Between maps and matrices.

    def load_pixels(self, pixels: Tensor, pixels_map: Tensor, tile: Tile) -> None:
        if not self.channels_last:
            # Read block by block, such a map makes a processor jump through all of its channels.
            pixels_map = self._compact(pixels_map, tile)
            tile = tile._replace(image=0, top=0, left=0)
        for part, blocks in self._pixel_parts(pixels_map, pixels, tile):
            blocks.copy_(part)

    def _compact(self, pixels_map: Tensor, tile: Tile) -> Tensor:
        """The part of a map under a tile, contiguous."""
        s = self.scale_factor
        part = pixels_map[
            tile.image : tile.image + tile.images,
            :,
            s * tile.top : s * (tile.top + tile.height),
            s * tile.left : s * (tile.left + tile.width),
        ]
        if self._scratch is None:
            size = self.max_blocks * self.n_pixels * self.group_channels
            self._scratch = torch.empty(size, **self.options)
        return self._scratch[: part.numel()].view(part.shape).copy_(part)

    def store_pixels(self, pixels_map: Tensor, pixels: Tensor, tile: Tile) -> None:
        for part, blocks in self._pixel_parts(pixels_map, pixels, tile):
            part.copy_(blocks)

    def load_kernels(self, kernels: Tensor, kernel: Tensor, tile: Tile) -> None:
        for part, blocks in self._kernel_parts(kernel, kernels, tile):
            blocks.copy_(part)

    def store_kernels(self, kernel: Tensor, kernels: Tensor, tile: Tile) -> None:
        for part, blocks in self._kernel_parts(kernel, kernels, tile):
            part.copy_(blocks)

    def load_windows(self, windows: Tensor, coarse: Tensor, tile: Tile) -> None:
        t, half = self.block, self.kernel_size // 2
        rows = tile.block_rows * t + self.kernel_size - 1
        columns = tile.block_columns * t + self.kernel_size - 1
        top, left = tile.top - half, tile.left - half
        padded = self._padded(tile.images, rows, columns)
        y0, y1 = max(top, 0), min(top + rows, self.height)
        x0, x1 = max(left, 0), min(left + columns, self.width)
        for outside in (
            padded[..., : y0 - top, :],
            padded[..., y1 - top :, :],
            padded[..., : x0 - left],
            padded[..., x1 - left :],
        ):
            if outside.numel():
                outside.zero_()
        source = coarse.unflatten(1, (self.groups, self.group_channels))
        padded[..., y0 - top : y1 - top, x0 - left : x1 - left] = source[
            tile.image : tile.image + tile.images, ..., y0:y1, x0:x1
        ]
        overlapping = padded.unfold(3, self.window, t).unfold(4, self.window, t)
        self._window_blocks(windows, tile).copy_(overlapping)

    def add_windows(self, rows: Tensor, windows: Tensor, tile: Tile) -> None:
        """Add windows, which overlap, to the rows that they cover."""
        t = self.block
        blocks = self._window_blocks(windows, tile)
        height, width = t * tile.block_rows, t * tile.block_columns
        rows = rows[: tile.images]
        # Parts of T*T at the same place in their windows do not overlap.
        for y in range(0, self.window, t):
            for x in range(0, self.window, t):
                part = blocks[..., y : y + t, x : x + t]
                x0 = tile.left + x
                to = rows[..., y : y + height, x0 : x0 + width]
                to = to.unfold(3, t, t).unfold(4, t, t)
                to[..., : part.shape[-2], : part.shape[-1]].add_(part)

    def accumulator(self) -> Tensor:
        """Zeros for the coarse rows that a row of tiles reaches, padded as windows need it."""
        t = self.block
        beyond = (self.window - 1) // t * t
        columns = -(-self.width // t) * t
        rows = self._padded(self.tile_images, self.tile_rows * t + beyond, columns + beyond)
        return rows.zero_()

    def store_rows(self, coarse: Tensor, rows: Tensor, tile: Tile) -> None:
        """Store the rows that no later tile adds to, and keep the others for the next tile."""
        half, carried = self.kernel_size // 2, self.kernel_size - 1
        done = self.block * tile.block_rows
        first = tile.top - half
        y0, y1 = max(first, 0), self.height if tile.ends_image else max(first + done, 0)
        to = coarse.unflatten(1, (self.groups, self.group_channels))
        to[tile.image : tile.image + tile.images, ..., y0:y1, :] = rows[
            : tile.images, ..., y0 - first : y1 - first, half : half + self.width
        ]
        if tile.ends_image:
            rows.zero_()
        elif carried:
            rows[..., :carried, :] = rows[..., done : done + carried, :].clone()
            rows[..., carried:, :] = 0
        else:
            rows.zero_()

    def _padded(self, images: int, rows: int, columns: int) -> Tensor:
        """(images, g, C/g, rows, columns), uninitialized."""
        size = (images, self.groups, rows, columns, self.group_channels)
        return torch.empty(size, **self.options).permute(0, 1, 4, 2, 3)

    def _window_blocks(self, windows: Tensor, tile: Tile) -> Tensor:
        """The matrices as (image, g, C/g, block row, block column, row, column)."""
        blocks = (tile.images, self.groups, tile.block_rows, tile.block_columns)
        window = (self.window, self.window)
        windows = windows[: tile.blocks].unflatten(1, window).unflatten(0, blocks)
        return windows.permute(0, 1, 6, 2, 3, 4, 5)

    def _pixel_parts(
        self, pixels_map: Tensor, pixels: Tensor, tile: Tile
    ) -> Iterator[tuple[Tensor, Tensor]]:
        t, s = self.block, self.scale_factor
        blocks = (tile.images, self.groups, tile.block_rows, tile.block_columns)
        blocks = pixels[: tile.blocks].unflatten(1, (t, s, t, s)).unflatten(0, blocks)
        # (image, g, by, bx, t, s, t, s, c) -> (image, g, c, by, t, s, bx, t, s)
        blocks = blocks.permute(0, 1, 8, 2, 4, 5, 3, 6, 7)
        maps = pixels_map.unflatten(1, (self.groups, self.group_channels))
        return self._parts(maps, blocks, tile)

    def _kernel_parts(
        self, kernel: Tensor, kernels: Tensor, tile: Tile
    ) -> Iterator[tuple[Tensor, Tensor]]:
        t, s, k = self.block, self.scale_factor, self.kernel_size
        p, w = self.n_taps, self.window
        per_block = self.n_pixels * p
        per_row = tile.block_columns * per_block
        per_group = tile.block_rows * per_row
        # A step of one coarse pixel down or right also moves the window down or right.
        blocks = kernels.as_strided(
            (tile.images, self.groups, k, k, tile.block_rows, t, s, tile.block_columns, t, s),
            (
                *(self.groups * per_group, per_group, w, 1),
                *(per_row, s * t * s * p + w, t * s * p),
                *(per_block, s * p + 1, p),
            ),
        )
        return self._parts(kernel.unflatten(1, (self.groups, k, k)), blocks, tile)

    def _parts(self, maps: Tensor, blocks: Tensor, tile: Tile) -> Iterator[tuple[Tensor, Tensor]]:
        """Pairs of views of a tile in a fine map and in blocks: whole blocks, then cut ones."""
        t, s = self.block, self.scale_factor
        maps = maps[tile.image : tile.image + tile.images]
        for y, n_y, rows in whole_and_rest(tile.height, t):
            top = s * (tile.top + t * y)
            for x, n_x, columns in whole_and_rest(tile.width, t):
                left = s * (tile.left + t * x)
                part = maps[
                    ..., top : top + n_y * rows * s, left : left + n_x * columns * s
                ].unflatten(-1, (n_x, columns, s))
                part = part.unflatten(-4, (n_y, rows, s))
                yield part, blocks[..., y : y + n_y, :rows, :, x : x + n_x, :columns, :]


def even_share(total: int, most: int) -> int:
    """The size of parts, none above ``most`` or 1, that cut ``total`` into parts alike."""
    most = max(1, min(most, total))
    return -(-total // -(-total // most))


def whole_and_rest(length: int, block: int) -> list[tuple[int, int, int]]:
    """(first block, number of blocks, their length) for whole blocks and for one cut short."""
    whole, rest = divmod(length, block)
    return [part for part in ((0, whole, block), (whole, 1, rest)) if part[1] and part[2]]

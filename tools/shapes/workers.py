"""Drawing in several processes, with a progress bar."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TextIO

import cv2

from .files import Arguments, write_picture
from .folder import ShapesError


def available_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def draw_pictures(
    root: Path, arguments: Arguments, workers: int
) -> Iterator[tuple[int, int, dict]]:
    """Write every picture's files; yields (split number, index, records) in no fixed order."""
    workers = min(workers, arguments.train + arguments.val)
    if workers == 1:
        # OpenCV's own threads would only wait for each other on pictures this small
        cv2.setNumThreads(1)
        for split, index in arguments.pictures():
            yield split.number, index, write_picture(root, arguments, split, index)
        return

    processes, readers = [], []
    try:
        for worker in range(workers):
            reader, writer = multiprocessing.Pipe(duplex=False)
            process = multiprocessing.Process(
                target=_work,
                args=(writer, os.getpid(), root, arguments, worker, workers),
                daemon=True,
            )
            process.start()
            writer.close()  # now the reader sees the end when the worker dies
            processes.append(process)
            readers.append(reader)
        while readers:
            for reader in wait(readers):
                try:
                    result = reader.recv()
                except EOFError:
                    raise ShapesError(
                        "a drawing process was killed, possibly for want of memory: "
                        "use fewer --workers"
                    ) from None
                if result is None:
                    readers.remove(reader)
                elif isinstance(result, BaseException):
                    raise result
                else:
                    yield result
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()


def _work(
    writer: Connection, parent: int, root: Path, arguments: Arguments, first: int, step: int
) -> None:
    """Draw every `step`-th picture from `first` on and send its records; None tells the end."""
    # Ctrl-C reaches every process of the terminal; the parent stops the others
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    cv2.setNumThreads(1)
    try:
        for split, index in arguments.pictures()[first::step]:
            if os.getppid() != parent:  # killed: nobody wants the pictures any more
                return
            writer.send((split.number, index, write_picture(root, arguments, split, index)))
        writer.send(None)
    except BrokenPipeError:
        return
    except Exception as error:
        writer.send(error)


class Progress:
    """A bar on a terminal, rewritten in place; silent where there is no terminal."""

    def __init__(self, total: int, quiet: bool, stream: TextIO = sys.stderr) -> None:
        self.total, self.done = total, 0
        self._stream = stream
        self._shown = not quiet and stream.isatty()
        self._start = self._last = time.monotonic()

    def advance(self) -> None:
        self.done += 1
        now = time.monotonic()
        if not self._shown or (now - self._last < 0.1 and self.done < self.total):
            return
        self._last = now
        rate = self.done / max(now - self._start, 1e-6)
        filled = 30 * self.done // self.total
        self._stream.write(
            f"\r[{'#' * filled}{'.' * (30 - filled)}] {self.done}/{self.total} pictures, "
            f"{rate:.0f}/s, {(self.total - self.done) / rate:.0f} s left \x1b[K"
        )
        self._stream.flush()

    def close(self) -> None:
        """End the bar's line; whatever is printed next stands below it."""
        if self._shown and self.done:
            self._stream.write("\n")
            self._stream.flush()

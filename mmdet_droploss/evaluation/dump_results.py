"""Predictions as a pickle, written as they come."""

from __future__ import annotations

import contextlib
import os
import pickle
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

from mmdet.evaluation import DumpDetResults
from mmengine.dist import get_rank, get_world_size
from mmengine.logging import print_log

from ..utils import open_atomically


class StreamedDetResults(DumpDetResults):
    """``DumpDetResults`` that keeps no predictions in memory; the file is the same.

    Each process writes what it predicts to a file of its own beside ``out_file_path``; in the end
    the first process joins them, in the order of the data set.

    Args:
        out_file_path: The file to write; a list of dictionaries, one an image.
    """

    def __init__(self, out_file_path: str) -> None:
        super().__init__(out_file_path=out_file_path)
        self._file: BinaryIO | None = None
        self._count = 0

    def _part(self, rank: int) -> str:
        return f"{self.out_file_path}.part{rank}"

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Write the predictions of a batch."""
        super().process(data_batch, data_samples)
        if self._file is None:
            os.makedirs(os.path.dirname(os.path.abspath(self.out_file_path)), exist_ok=True)
            self._file = open(self._part(get_rank()), "wb")  # noqa: SIM115 - closed in evaluate()
        for sample in self.results:
            pickle.dump(sample, self._file, protocol=4)
        self._count += len(self.results)
        self.results.clear()

    def evaluate(self, size: int) -> dict:
        """Join what the processes have written.

        Args:
            size: The number of images in the data set; what samplers add to fill up the last
                round is left out.
        """
        if self._file is not None:
            self._file.close()
        self._file, self._size = None, size
        # What BaseMetric gathers from the processes: one number each, in the place of all results.
        self.results = [self._count]
        self._count = 0
        return super().evaluate(get_world_size())

    def compute_metrics(self, results: list[int]) -> dict:
        """Write the file; called in the first process only.

        Args:
            results: How many images each process has written.
        """
        parts = [self._part(rank) for rank in range(len(results))]
        with contextlib.ExitStack() as stack:
            files = [
                stack.enter_context(open(part, "rb"))
                for part, count in zip(parts, results, strict=True)
                if count
            ]
            with open_atomically(self.out_file_path) as whole:
                pickler = pickle.Pickler(whole, protocol=4)
                pickler.fast = True  # no memo: it would keep every prediction alive
                pickler.dump(_LazyList(_in_turn(files, min(sum(results), self._size))))
        for part in parts:
            if os.path.exists(part):
                os.unlink(part)
        print_log(f"wrote the predictions to {self.out_file_path}", logger="current")
        return {}


class _LazyList:
    """Pickles as a list of what an iterator yields, without ever having it."""

    def __init__(self, items: Iterator[Any]) -> None:
        self._items = items

    def __reduce__(self) -> tuple:
        return list, (), None, self._items


def _in_turn(files: Sequence[BinaryIO], size: int) -> Iterator[Any]:
    """The pickled objects of several files, one of each in turn, as samplers deal images out."""
    for index in range(size):
        yield pickle.load(files[index % len(files)])

"""Predictions as a pickle, written as they come."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

from mmdet.evaluation import DumpDetResults
from mmengine.dist import get_world_size
from mmengine.logging import print_log

from ..annotations.progress import track
from .parts import Part, joined


class StreamedDetResults(DumpDetResults):
    """``DumpDetResults`` that keeps no predictions in memory; the file is the same.

    Each process writes what it predicts to a file of its own beside ``out_file_path``; in the end
    the first process joins them, in the order of the data set.

    Args:
        out_file_path: The file to write; a list of dictionaries, one an image.
    """

    default_prefix = "predictions"  # of no number, but MMEngine warns of a metric without

    def __init__(self, out_file_path: str) -> None:
        super().__init__(out_file_path=out_file_path)
        self._start()

    def _start(self) -> None:
        self._part, self._count = Part(self.out_file_path), 0

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Write the predictions of a batch."""
        super().process(data_batch, data_samples)
        for sample in self.results:
            self._part.write(pickle.dumps(sample, protocol=4))
        self._count += len(self.results)
        self.results.clear()

    def evaluate(self, size: int) -> dict:
        """Join what the processes have written.

        Args:
            size: The number of images in the data set; what samplers add to fill up the last
                round is left out.
        """
        self._part.close()
        self._size = size
        # What BaseMetric gathers from the processes: two numbers each, in the place of all results.
        self.results = [(self._count, self._part.size)]
        self._start()
        return super().evaluate(get_world_size())

    def compute_metrics(self, results: list[tuple[int, int]]) -> dict:
        """Write the file; called in the first process only.

        Args:
            results: How many images and bytes each process has written.
        """
        counts, sizes = zip(*results, strict=True)
        with joined(self.out_file_path, sizes) as (whole, parts):
            pickler = pickle.Pickler(whole, protocol=4)
            pickler.fast = True  # no memo: it would keep every prediction alive
            size = min(sum(counts), self._size)
            pickler.dump(_LazyList(_in_turn(parts, size, f"writing {self.out_file_path}")))
        print_log(f"wrote the predictions to {self.out_file_path}", logger="current")
        return {}


class _LazyList:
    """Pickles as a list of what an iterator yields, without ever having it."""

    def __init__(self, items: Iterator[Any]) -> None:
        self._items = items

    def __reduce__(self) -> tuple:
        return list, (), None, self._items


def _in_turn(files: Sequence[BinaryIO], size: int, what: str) -> Iterator[Any]:
    """The pickled objects of several files, one of each in turn, as samplers deal images out."""
    for index in track(range(size), what):
        yield pickle.load(files[index % len(files)])

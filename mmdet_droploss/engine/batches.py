"""The sequence of batches of a training, which can be entered anywhere without loading images."""

from __future__ import annotations

import collections
import contextlib
import inspect
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from mmengine.dist import get_rank
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, Sampler

from .random_states import kept_cpu_random_states, seed_cpu_generators


class SeededBatch(list):
    """Indices of a batch; whoever goes through them finds the generators seeded for each.

    torch's data loader takes the items of a batch one after another, in whichever process. So a
    random transform draws the same for the same place in the training, whatever came before it and
    however many workers there are.

    Args:
        indices: The indices of the batch's images.
        key: Whole numbers >= 0 that no other batch of the training has.
    """

    def __init__(self, indices: Iterable[Any], key: Sequence[int]) -> None:
        super().__init__(indices)
        self.key = tuple(key)

    def __iter__(self) -> Iterator[Any]:
        """Yield the indices, and leave the generators as they were."""
        with kept_cpu_random_states():
            for position in range(len(self)):
                seed_cpu_generators((*self.key, position))
                yield self[position]

    def __reduce__(self) -> tuple:
        """To worker processes: by default, pickle would go through the indices."""
        return type(self), (self[:], self.key)


class EndlessBatchSampler(Sampler[SeededBatch]):
    """One sequence of batches over all epochs of a batch sampler.

    Args:
        batch_sampler: The one of the data loader; of any kind.
        seed: A whole number >= 0, from which random transforms are seeded.
    """

    def __init__(self, batch_sampler: BatchSampler, seed: int) -> None:
        self.batch_sampler = batch_sampler
        self.sampler = batch_sampler.sampler
        self.seed = seed
        self._batches = enumerate(self._epochs())

    def __iter__(self) -> Iterator[SeededBatch]:
        """Yield the batches from the current position on."""
        for number, batch in self._batches:
            yield SeededBatch(batch, (self.seed, get_rank(), number))

    def skip(self, number: int) -> None:
        """Go to the batch with this number, counted from 0, before the first is taken.

        Indices are drawn and grouped into batches as if they were taken, but nothing is loaded.
        """
        if type(self.batch_sampler) is BatchSampler and hasattr(self.sampler, "skip"):
            # Newer versions of MMEngine: the sampler itself goes to an index.
            self.sampler.skip(number * self.batch_sampler.batch_size)
            self._batches = enumerate(self._epochs(), number)
            return
        with _remembered_sizes(self.sampler):
            collections.deque(itertools.islice(self._batches, number), maxlen=0)

    def _epochs(self) -> Iterator[list]:
        for epoch in itertools.count():
            if epoch and hasattr(self.sampler, "set_epoch"):
                self.sampler.set_epoch(epoch)
            is_empty = True
            for batch in self.batch_sampler:
                is_empty = False
                yield batch
            if is_empty:
                raise ValueError(
                    "an epoch of the training data has no batch: the data set is smaller than "
                    "batch_size and drop_last is set, or the sampler yields nothing"
                )


class _RememberedSizes:
    """A data set's image sizes, each looked up once.

    mmdet's batch samplers by aspect ratio decode the annotations of each index they draw, to know
    its width and height.
    """

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset
        self._sizes: dict[Any, tuple[int, int]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._dataset, name)

    def __len__(self) -> int:
        return len(self._dataset)

    def get_data_info(self, index: Any) -> dict:
        if index not in self._sizes:
            info = self._dataset.get_data_info(index)
            if "width" not in info or "height" not in info:  # of a video: its images have them
                return info
            self._sizes[index] = info["width"], info["height"]
        width, height = self._sizes[index]
        return {"width": width, "height": height}


@contextlib.contextmanager
def _remembered_sizes(sampler: Any) -> Iterator[None]:
    """Have the batch sampler, which asks its sampler's data set, look up each image's size once."""
    dataset = getattr(sampler, "dataset", None)
    if not hasattr(dataset, "get_data_info"):
        yield
        return
    sampler.dataset = _RememberedSizes(dataset)
    try:
        yield
    finally:
        sampler.dataset = dataset


def loader_of(dataloader: DataLoader, batches: EndlessBatchSampler) -> DataLoader:
    """A data loader like the given one that loads other batches of the same data set."""
    chosen_by_batches = {"batch_size", "shuffle", "sampler", "batch_sampler", "drop_last"}
    options = {
        name: getattr(dataloader, name)
        for name in inspect.signature(DataLoader).parameters
        if name not in chosen_by_batches and hasattr(dataloader, name)
    }
    return DataLoader(batch_sampler=batches, **options)


def check_has_batches(dataloader: DataLoader) -> None:
    """Refuse a data loader that has no batch sampler.

    Raises:
        TypeError: If the data set is iterable only, or batches are not made by a sampler.
    """
    if isinstance(dataloader.dataset, IterableDataset) or dataloader.batch_sampler is None:
        raise TypeError(
            "a training with this loop needs train_dataloader to have indices and batches: a data "
            "set with __getitem__ and batch_size >= 1; otherwise use train_cfg=dict("
            "type='IterBasedTrainLoop'), which loads all images again when it resumes"
        )

"""The states of the random generators of Python, NumPy and torch."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
import torch

RandomStates = dict[str, Any]


def random_states() -> RandomStates:
    """The states of this process's generators, of its current GPU's as well.

    Returns:
        Whole numbers, tuples and tensors only, which a checkpoint may hold. 8 kB.
    """
    name, keys, *position = cast(tuple, np.random.get_state())
    states: RandomStates = {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(keys.astype(np.int64)), *position),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def set_random_states(states: RandomStates) -> None:
    """Put the generators back into states of :func:`random_states`."""
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, *position = states["numpy"]
    np.random.set_state((name, keys.cpu().numpy().astype(np.uint32), *position))
    torch.set_rng_state(states["torch"].cpu())
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"].cpu())


@contextlib.contextmanager
def kept_cpu_random_states() -> Iterator[None]:
    """Leave no trace of a block's draws on the CPU. Data loader workers must not touch the GPU."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


def seed_cpu_generators(key: Sequence[int]) -> None:
    """Seed the generators of the CPU by some whole numbers >= 0, each combination independently."""
    python, numpy, of_torch = np.random.SeedSequence(key).generate_state(3).tolist()
    random.seed(python)
    np.random.seed(numpy)
    torch.default_generator.manual_seed(of_torch)  # torch.manual_seed would seed GPUs as well

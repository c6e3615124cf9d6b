"""The registered losses of the paper: each names its equation of equations.py."""

from __future__ import annotations

import math
from typing import Any

from mmdet.registry import MODELS
from mmengine.dist import all_reduce
from torch import Tensor

from . import equations as eq
from .long_tail_loss import ClassFreq, LongTailLoss


@MODELS.register_module()
class SigmoidBCELoss(LongTailLoss):
    """Sigmoid binary cross-entropy, w = 1: the paper's baseline.

    Arguments are those of :class:`LongTailLoss`; ``class_freq`` is optional and only serves the
    accuracies per frequency group.
    """

    needs_tail = False

    def __init__(self, num_classes: int, class_freq: ClassFreq = None, **kwargs: Any) -> None:
        super().__init__(num_classes, class_freq, **kwargs)

    def term_weights(self, labels: Tensor) -> None:
        """All weights are 1."""
        return None


@MODELS.register_module()
class EQL(LongTailLoss):
    """Equalization loss, eq. (1)-(2); Tan et al., CVPR 2020.

    A foreground proposal does not push down the scores of other low-frequency categories.
    Arguments are those of :class:`LongTailLoss`.
    """

    def term_weights(self, labels: Tensor) -> eq.TermWeights:
        """Eq. (2)."""
        return eq.eql(self.tail)


@MODELS.register_module()
class BEQL(LongTailLoss):
    """Background equalization loss, eq. (3)-(4): the paper's own baseline.

    EQL, and a background proposal pushes down a low-frequency category the less, the lower its
    score already is.

    Args:
        log_base: b, the base of the logarithm in eq. (4); > 1. A smaller base discounts background
            more, a large one gives EQL.
        *args, **kwargs: Those of :class:`LongTailLoss`.
    """

    def __init__(self, *args: Any, log_base: float = 4, **kwargs: Any) -> None:
        if not isinstance(log_base, (int, float)) or not 1 < log_base < math.inf:
            raise ValueError(
                f"log_base must be a number > 1 (with b <= 1 the weights of eq. (4) leave [0, 1]), "
                f"but it is {log_base!r}"
            )
        super().__init__(*args, **kwargs)
        self.log_base = log_base

    def term_weights(self, labels: Tensor) -> eq.TermWeights:
        """Eq. (4)."""
        return eq.beql(self.tail, self.log_base)


@MODELS.register_module()
class FixedDropLoss(LongTailLoss):
    """EQL with a fixed drop ratio for background: the baseline of Figure 3.

    Args:
        drop_ratio: The probability in [0, 1] that a background proposal's term of a low-frequency
            category is dropped. 0 gives EQL.
        *args, **kwargs: Those of :class:`LongTailLoss`.
    """

    def __init__(self, *args: Any, drop_ratio: float, **kwargs: Any) -> None:
        if not isinstance(drop_ratio, (int, float)) or not 0 <= drop_ratio <= 1:
            raise ValueError(f"drop_ratio must lie in [0, 1], but it is {drop_ratio!r}")
        super().__init__(*args, **kwargs)
        self.drop_ratio = drop_ratio

    def term_weights(self, labels: Tensor) -> eq.TermWeights:
        """Eq. (6), with a mu that does not depend on the batch."""
        return eq.fixed_drop(self.tail, self.drop_ratio)


@MODELS.register_module()
class DropLoss(LongTailLoss):
    """DropLoss, eq. (5)-(7).

    EQL, and a background proposal's term of category j is kept with probability mu_j, the share of
    the batch's foreground proposals that belong to j's group (low-frequency or frequent). With no
    foreground proposal in the batch, where eq. (7) is 0/0, every term is kept.

    Args:
        drop_frequent: Whether terms of frequent categories are dropped, too, as eq. (7) says.
            False keeps them all, as the authors' released code does.
        sync_statistics: Whether the shares are those of all processes' proposals; by default each
            process takes its own, as the released code does. Every process must then call the loss
            equally often, also for an empty batch (``LargeVocabBBoxHead`` does).
        *args, **kwargs: Those of :class:`LongTailLoss`.
    """

    def __init__(
        self, *args: Any, drop_frequent: bool = True, sync_statistics: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.drop_frequent = drop_frequent
        self.sync_statistics = sync_statistics

    def term_weights(self, labels: Tensor) -> eq.TermWeights:
        """Eq. (6), with mu of eq. (7)."""
        statistics = eq.batch_statistics(labels, self.tail)
        if self.sync_statistics:
            all_reduce(statistics)
        mu = eq.drop_keep_probability(statistics, self.tail, self.drop_frequent)
        return eq.droploss(self.tail, mu)

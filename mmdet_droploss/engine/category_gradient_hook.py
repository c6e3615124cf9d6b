"""Record where the gradients on each category's logit come from: the paper's Figure 1."""

from __future__ import annotations

import os
import os.path as osp
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmdet.models.roi_heads.bbox_heads import BBoxHead
from mmengine.dist import all_reduce, is_main_process
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor, nn

from ..annotations import GROUP_NAMES, ClassFrequency, load_class_frequency
from .gradient_record import GradientRecord, load_gradient_record

FILE_NAME = "category_gradients.npz"


@HOOKS.register_module()
class CategoryGradientHook(Hook):
    """Record, for each category, the gradients on its logit by origin, and its background scores.

    Works with every loss of the bbox heads, of this package or MMDetection's, in one process or
    many, with mixed precision, and in a cascade. Nothing waits for the GPU within a stage. The
    record is ``category_gradients.npz`` in the work dir (:class:`GradientRecord`), complete after
    each stage; the groups' figures also go to the visualizer's backends (TensorBoard, W&B). A
    resumed run goes on with the file that it finds, from the stages that ended before; iterations
    of an unfinished stage that were seen before the stop are not in its sums. Where a loss has more
    outputs than the categories and background (Seesaw's objectness), what background does is not
    measured: it acts through these.

    ``tools/analysis_tools/gradient_figure.py`` draws the paper's Figure 1 of it.

    Args:
        interval: Iterations in a stage.
        class_freq: Category frequencies of the training set, as for the losses, for the groups;
            by default those of the loss, if it has any.

    Raises:
        ValueError: If ``interval`` is not a positive whole number, or the model has no bbox head.
    """

    priority = "LOW"

    def __init__(self, interval: int = 1000, class_freq: Any = None) -> None:
        if isinstance(interval, bool) or not isinstance(interval, int) or interval < 1:
            raise ValueError(f"interval must be a whole number >= 1, but it is {interval!r}")
        self.interval = interval
        self._frequency = None if class_freq is None else load_class_frequency(class_freq)
        self._sums: list[CategorySums] = []
        self._stages: list[dict[str, np.ndarray]] = []

    def before_train(self, runner: Runner) -> None:
        """Look for the heads, and for the record of the run that is resumed."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        heads = [module for module in model.modules() if isinstance(module, BBoxHead)]
        if not heads:
            raise ValueError(
                f"CategoryGradientHook records the classification of bbox heads, and "
                f"{type(model).__name__} has none"
            )
        self._frequency = self._frequency or getattr(heads[0].loss_cls, "class_frequency", None)
        self._sums = [CategorySums(head) for head in heads]
        self._path = osp.join(runner.work_dir, FILE_NAME)
        self._begin = runner.iter
        self._earlier = self._earlier_stages(runner)
        self._stages = []

    def _earlier_stages(self, runner: Runner) -> GradientRecord | None:
        """Those of the run that is resumed; a file of another training is not gone on with."""
        if not osp.exists(self._path):
            return None
        if runner.iter == 0:
            if is_main_process():
                os.remove(self._path)
            return None
        record = load_gradient_record(self._path)
        pairs = {key: (getattr(record, key), value) for key, value in self._facts(runner).items()}
        pairs["number of heads"] = record.background.shape[1], len(self._sums)
        pairs["number of categories"] = record.num_classes, self._sums[0].head.num_classes
        if (runner.cfg.get("randomness") or {}).get("seed") is None:
            del pairs["seed"]  # another one at each start
        if other := [key for key, (there, here) in pairs.items() if there != here]:
            runner.logger.warning(
                f"{self._path} is of another training, by its {' and '.join(other)}; the record "
                f"begins anew, at iteration {runner.iter}"
            )
            return None
        return record.before(runner.iter)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """End a stage."""
        if (runner.iter + 1) % self.interval == 0 or runner.iter + 1 == runner.max_iters:
            self._end_stage(runner)

    def after_train(self, runner: Runner) -> None:
        """Let the model go as it came."""
        for sums in self._sums:
            sums.remove()
        self._sums = []

    def _end_stage(self, runner: Runner) -> None:
        heads = [sums.collect() for sums in self._sums]
        stage = {name: np.stack([head[name] for head in heads]) for name in heads[0]}
        self._stages.append({"stages": np.array([self._begin, runner.iter + 1]), **stage})
        self._begin = runner.iter + 1
        runner.visualizer.add_scalars(self._scalars(stage), step=runner.iter + 1)
        if is_main_process():
            self._record(runner).save(self._path)

    def _record(self, runner: Runner) -> GradientRecord:
        arrays: dict[str, Any] = {
            name: np.stack([s[name] for s in self._stages]) for name in self._stages[0]
        }
        if self._earlier is not None:
            arrays = {
                name: np.concatenate([getattr(self._earlier, name), array])
                for name, array in arrays.items()
            }
        counts = () if self._frequency is None else self._frequency.image_count
        return GradientRecord(**arrays, **self._facts(runner), image_count=counts)

    def _facts(self, runner: Runner) -> dict[str, Any]:
        """Which training it is."""
        dataset = runner.train_dataloader.dataset
        return {
            "loss": type(self._sums[0].head.loss_cls).__name__,
            "classes": tuple(getattr(dataset, "metainfo", {}).get("classes", ())),
            "seed": -1 if runner.seed is None else runner.seed,
        }

    def _scalars(self, stage: dict[str, np.ndarray]) -> dict[str, float]:
        """The figures of a stage by frequency group, averaged over the heads."""
        discouraging = stage["background"] + stage["foreground"]
        scalars = {}
        for name, chosen in _groups(self._frequency, stage["background"].shape[1]):
            if not chosen.any():
                continue
            total = discouraging[:, chosen].sum()
            if total > 0:
                share = stage["background"][:, chosen].sum() / total
                scalars[f"gradient/background_share_{name}"] = float(share)
            score = stage["background_score"][:, chosen].mean()
            scalars[f"gradient/background_score_{name}"] = float(score)
        return scalars


def _groups(frequency: ClassFrequency | None, num_classes: int) -> Sequence[tuple[str, np.ndarray]]:
    """Letters and members of the frequency groups; one group of all if they are not known."""
    if frequency is None:
        return [("all", np.ones(num_classes, bool))]
    return [(name[0], frequency.groups == index) for index, name in enumerate(GROUP_NAMES)]


class CategorySums:
    """The sums of a stage over one head's proposals."""

    def __init__(self, head: BBoxHead) -> None:
        self.head = head
        self._values: Tensor | None = None
        self._handle = head.loss_cls.register_forward_hook(self._watch, with_kwargs=True)

    def remove(self) -> None:
        """Stop watching."""
        self._handle.remove()

    def _watch(self, module: nn.Module, args: tuple, kwargs: dict, loss: Any) -> None:
        """Called with each classification loss: arrange for its gradient to be added."""
        cls_score = args[0] if args else kwargs["cls_score"]
        labels = args[1] if len(args) > 1 else kwargs["label" if "label" in kwargs else "labels"]
        if not cls_score.requires_grad or len(labels) == 0:
            return
        scale: list[Tensor] = []
        # What arrives at the loss is 1 but for the scale of mixed precision and a stage's weight.
        for value in loss.values() if isinstance(loss, dict) else [loss]:
            value.register_hook(scale.append)
        score = cls_score.detach()

        def add(gradient: Tensor) -> None:
            self._add(score, labels, gradient / scale[0].mean())

        cls_score.register_hook(add)

    @torch.no_grad()
    def _add(self, cls_score: Tensor, labels: Tensor, gradient: Tensor) -> None:
        num_classes = self.head.num_classes
        gradient = gradient[:, :num_classes].float().abs()
        is_background = (labels == num_classes).float()
        own = gradient.gather(1, labels.clamp(max=num_classes - 1)[:, None])[:, 0]
        own = own * (1 - is_background)
        encouraging = gradient.new_zeros(num_classes + 1).index_add_(0, labels, own)[:-1]
        of_background = is_background @ gradient
        if cls_score.shape[1] > num_classes + 1:
            of_background = torch.full_like(of_background, torch.nan)
        loss_cls = self.head.loss_cls
        if self.head.custom_activation:
            scores = loss_cls.get_activation(cls_score)[:, :num_classes]
        elif getattr(loss_cls, "use_sigmoid", False) and cls_score.shape[1] == num_classes:
            scores = cls_score.float().sigmoid()  # FocalLoss in Sparse R-CNN's heads
        else:
            scores = F.softmax(cls_score.float(), dim=-1)[:, :num_classes]
        values = torch.stack(
            [
                of_background,
                (1 - is_background) @ gradient - encouraging,
                encouraging,
                is_background @ scores.float(),
                is_background.sum().expand(num_classes),
            ]
        ).double()
        self._values = values if self._values is None else self._values.add_(values)

    def collect(self) -> dict[str, np.ndarray]:
        """The sums over all processes since the last call."""
        values = self._values
        if values is None:  # no proposals in this process
            device = next(self.head.parameters()).device
            values = torch.zeros(5, self.head.num_classes, dtype=torch.float64, device=device)
        self._values = None
        all_reduce(values)
        background, foreground, encouraging, scores, proposals = values.cpu().numpy()
        return {
            "background": background.astype(np.float32),
            "foreground": np.maximum(foreground, 0).astype(np.float32),  # of a rounding below 0
            "encouraging": encouraging.astype(np.float32),
            "background_score": (scores / max(proposals[0], 1)).astype(np.float32),
            "background_proposals": proposals[0],
        }

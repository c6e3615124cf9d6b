"""Compares, at the start of a run, what all that takes part in it means by labels and image ids."""

from __future__ import annotations

import filecmp
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
from mmdet.datasets import BaseDetDataset, CocoDataset, CocoPanopticDataset
from mmdet.evaluation import MultiDatasetsEvaluator
from mmengine.fileio import get_local_path
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import BaseLoop, Runner
from torch import nn

from ..annotations import GROUP_NAMES, ClassFrequency
from ..annotations.names import Categories, difference, repeated_name
from ..annotations.reader import read_categories
from ..datasets.fast_annotations import FastAnnotations
from ..evaluation.fast_lvis_metric import FastLVISMetric

#: Parts of a detector whose ``num_classes`` must be the number of categories.
_COUNTING = ("bbox_head", "mask_head", "loss_cls")


@HOOKS.register_module()
class CategoryCheckHook(Hook):
    """Refuse a run whose parts number the categories differently.

    A label is a category's place in a list, and there are several lists: ``categories`` of each
    annotation file, ``classes`` of each data set's metainfo, the names behind ``class_freq``, the
    categories of the evaluators' files, the names in a checkpoint that is tested or resumed. They
    must be the same names in the same order. Where one has no names, ids or numbers are compared.
    ``num_classes`` of heads and losses must be their number.

    An evaluator must mean the same picture by an image id as the data set that is tested, too; that
    it has another annotation file is a warning.

    It also warns if the training data show so many fewer or more images of a category than
    ``class_freq`` that the tail is another one, or other groups than those of an evaluator.

    With ``check_classes = False`` in the config a difference is a warning, and the run goes on.
    """

    def __init__(self) -> None:
        self._reference: Categories | None = None

    def before_run(self, runner: Runner) -> None:
        """Compare all that has been built.

        Raises:
            ValueError: If two lists differ, or images; the message names the first that does.
        """
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        training = list(_data_sets(runner._train_loop))
        testing = [*_data_sets(runner._val_loop), *_data_sets(runner._test_loop)]
        found = [each for data_set in training + testing for each in _categories_of(data_set)]
        for loop in (runner._val_loop, runner._test_loop):
            found += _categories_of_evaluator(loop)
        found += _categories_of_losses(model)
        for loop in (runner._val_loop, runner._test_loop):
            for text in _compare_with_evaluators(loop):
                runner.logger.warning(text)
            if not _is_strict(runner):
                for metric in _lvis_metrics(loop):
                    metric.check_classes = False
        self._reference = found[0] if found else None
        for each in found:
            _report(runner, repeated_name(each))
            _report(runner, difference(found[0], each))
        if found:
            for name, number in _numbers_of_classes(model):
                if number != found[0].number:
                    _report(
                        runner,
                        f"{found[0].source} has {found[0].number} categories, but num_classes of "
                        f"model.{name} is {number}",
                    )
        if trained := _trained_frequency(training):
            _warn_of_another_tail(runner, model, trained)
            for loop in (runner._val_loop, runner._test_loop):
                _warn_of_other_groups(runner, loop, trained)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Compare with what a checkpoint was trained on, unless it only is a start.

        Raises:
            ValueError: As :meth:`before_run`.
        """
        if isinstance(runner._train_loop, BaseLoop) and not runner._resume:
            return
        meta = checkpoint.get("meta", {}).get("dataset_meta") or {}
        names = meta.get("classes")
        if self._reference is not None and isinstance(names, (list, tuple)):
            trained = Categories("the checkpoint", len(names), tuple(map(str, names)))
            _report(runner, difference(self._reference, trained))


def _is_strict(runner: Runner) -> bool:
    return runner.cfg.get("check_classes", True)


def _report(runner: Runner, text: str | None) -> None:
    """Refuse a difference, or tell it."""
    if text is None:
        return
    if not _is_strict(runner):
        runner.logger.warning(f"{text}; check_classes=False lets the run go on")
        return
    raise ValueError(
        f"{text}. A label is a category's place in such a list, so all must have the same "
        f"categories in the same order: annotation files, metainfo['classes'], class_freq, "
        f"evaluators and num_classes. Correct the one that is wrong; check_classes=False in the "
        f"config makes this a warning"
    )


def _data_sets(loop: Any) -> Iterator[Any]:
    """The data sets of a loop that has been built, out of their wrappers."""
    if isinstance(loop, BaseLoop):
        yield from _unwrapped(loop.dataloader.dataset)


def _unwrapped(data_set: Any) -> Iterator[Any]:
    if hasattr(data_set, "datasets"):  # ConcatDataset
        for part in data_set.datasets:
            yield from _unwrapped(part)
    elif hasattr(data_set, "dataset"):  # RepeatDataset, ClassBalancedDataset, MultiImageMixDataset
        yield from _unwrapped(data_set.dataset)
    else:
        yield data_set


def _categories_of(data_set: Any) -> Iterator[Categories]:
    """Those of its file, and the names in its metainfo."""
    source = f"ann_file={str(getattr(data_set, 'ann_file', ''))!r}"
    if isinstance(data_set, FastAnnotations):
        names = data_set.category_names
        if hasattr(data_set, "cat_ids"):  # a subclass's own load_data_list may not set them
            yield Categories(source, len(data_set.cat_ids), names, tuple(data_set.cat_ids))
    elif isinstance(data_set, CocoDataset) and not isinstance(data_set, CocoPanopticDataset):
        with get_local_path(data_set.ann_file, backend_args=data_set.backend_args) as path:
            by_id = {entry["id"]: entry for entry in read_categories(path, source)}
        # mmdet takes those whose name is in metainfo['classes'], in the order of the file.
        yield Categories.of_file(source, [by_id[id_] for id_ in data_set.cat_ids])
    names = getattr(data_set, "metainfo", {}).get("classes")
    if isinstance(names, (list, tuple)):
        names = tuple(map(str, names))
        yield Categories(f"metainfo['classes'] of {source}", len(names), names)


def _categories_of_evaluator(loop: Any) -> list[Categories]:
    found = []
    for metric in loop.evaluator.metrics if isinstance(loop, BaseLoop) else ():
        source = f"{type(metric).__name__}'s ann_file={getattr(metric, 'ann_file', '')!r}"
        if isinstance(metric, FastLVISMetric):
            found.append(Categories.of_file(source, metric.ground_truth.categories))
        elif (api := getattr(metric, "_lvis_api", None)) is not None:  # LVISMetric
            found.append(Categories.of_file(source, api.load_cats(api.get_cat_ids())))
        elif (api := getattr(metric, "_coco_api", None)) is not None:  # CocoMetric
            ids = api.get_cat_ids(cat_names=metric.dataset_meta["classes"])
            found.append(Categories.of_file(source, api.load_cats(ids)))
    return found


def _lvis_metrics(loop: Any) -> list[FastLVISMetric]:
    metrics = loop.evaluator.metrics if isinstance(loop, BaseLoop) else ()
    return [metric for metric in metrics if isinstance(metric, FastLVISMetric)]


def _compare_with_evaluators(loop: Any) -> Iterator[str]:
    """Compare the images of the data sets with those of the evaluators.

    Yields:
        What is to be told: an evaluator has another file than a data set.

    Raises:
        ValueError: If the first image of a data set is another one for an evaluator, or evaluators
            are of a kind that FastLVISMetric does not go with.
    """
    for metric in _lvis_metrics(loop):
        if isinstance(loop.evaluator, MultiDatasetsEvaluator):
            raise ValueError(
                "FastLVISMetric does not work in MultiDatasetsEvaluator, which shares the results "
                "of all data sets out among the metrics, where FastLVISMetric has matched its own "
                "already. Test the data sets one after another, each with a FastLVISMetric"
            )
        tested = [each for each in _data_sets(loop) if isinstance(each, BaseDetDataset)]
        others = [each for each in tested if not _same_file(metric.ann_file, str(each.ann_file))]
        if tested and not others:  # a data set may call its pictures otherwise than its file
            metric.check_pictures = False
        for data_set in others:
            if len(data_set) > 0:
                info = data_set.get_data_info(0)
                picture = info.get("img_path") if metric.check_pictures else None
                metric.ground_truth.require_image(info["img_id"], picture)
                yield (
                    f"{type(metric).__name__}'s ann_file={metric.ann_file!r} is not the file of "
                    f"the data set that is tested, ann_file={str(data_set.ann_file)!r}. If image "
                    f"ids mean the same pictures in both, as "
                    f"{metric.ground_truth.name_of_image(info['img_id'])} and "
                    f"{info.get('img_path')!r}, this is as it should be"
                )


def _same_file(one: str, other: str) -> bool:
    """Whether two files have the same content, as far as they lie on this machine."""
    if one == other or not (os.path.isfile(one) and os.path.isfile(other)):
        return one == other
    return os.path.samefile(one, other) or filecmp.cmp(one, other, shallow=False)


def _frequencies(model: nn.Module) -> Iterator[tuple[Any, ClassFrequency]]:
    for module in model.modules():
        frequency = getattr(module, "class_frequency", None)
        if isinstance(frequency, ClassFrequency):
            yield module, frequency


def _categories_of_losses(model: nn.Module) -> list[Categories]:
    return [
        Categories(
            f"class_freq={frequency.source!r} of {type(module).__name__}",
            frequency.num_classes,
            frequency.classes,
            frequency.category_ids,
        )
        for module, frequency in _frequencies(model)
    ]


def _numbers_of_classes(model: nn.Module) -> Iterator[tuple[str, int]]:
    for name, module in model.named_modules():
        parts = [part for part in name.split(".") if not part.isdigit()]  # stages of a cascade
        if not parts or parts[-1] not in _COUNTING or "rpn_head" in parts:
            continue
        number = getattr(module, "num_classes", None)
        if isinstance(number, int) and not getattr(module, "class_agnostic", False):
            yield name, number


def _trained_frequency(training: list) -> ClassFrequency | None:
    """Of the images that are trained on; None if they cannot be counted, or not together."""
    if not training or not all(isinstance(each, FastAnnotations) for each in training):
        return None
    packed = [each.labels_by_image() for each in training]
    if None in packed or len({len(each.cat_ids) for each in training}) > 1:  # which has been told
        return None
    return ClassFrequency(
        np.sum([each.image_count() for each in training], axis=0),
        sum(int((np.diff(ends, prepend=0) > 0).sum()) for _, ends in packed),
        classes=tuple(map(str, training[0].category_names or training[0].cat_ids)),
    )


def _warn_of_other_groups(runner: Runner, loop: Any, trained: ClassFrequency) -> None:
    """Say where APr, APc and APf are of other categories than the trained images make them."""
    for metric in _lvis_metrics(loop):
        groups = [category.get("frequency") for category in metric.ground_truth.categories]
        if len(groups) != trained.num_classes or None in groups:
            continue
        shown = [GROUP_NAMES[group][0] for group in trained.groups]
        differ = [k for k, group in enumerate(groups) if group != shown[k]]
        if differ:
            first = differ[0]
            name = trained.classes[first] if trained.classes else first
            runner.logger.warning(
                f"{type(metric).__name__}, ann_file={metric.ann_file!r}: {len(differ)} of "
                f"{len(groups)} categories are in another group for APr, APc and APf than by the "
                f"images that are trained on. The first is {name!r}: {groups[first]!r}, but "
                f"{trained.image_count[first]} images are trained on, which is {shown[first]!r}. "
                f"If that is not meant so, give the metric class_freq, the annotation file that is "
                f"trained on"
            )


def _warn_of_another_tail(runner: Runner, model: nn.Module, trained: ClassFrequency) -> None:
    """Say where the images that are trained on change what is of low frequency."""
    counts = trained.image_count
    told = set()
    for module, frequency in _frequencies(model):
        if (
            frequency.num_classes != len(counts)
            or frequency.source in told
            or not module.needs_tail
        ):
            continue
        told.add(frequency.source)
        differ = np.flatnonzero(trained.tail(module.lambda_) != module.tail.cpu().numpy())
        if len(differ):
            first = differ[0]
            name = trained.classes[first] if trained.classes else first
            runner.logger.warning(
                f"{type(module).__name__}: {len(differ)} of {len(counts)} categories are in the "
                f"tail by class_freq={frequency.source!r} and not by the images that are trained "
                f"on, or the other way round. The first is {name!r}: {counts[first]} images are "
                f"trained on, class_freq says {frequency.image_count[first]}. If class_freq is not "
                f"meant so, give it the annotation file that is trained on, or a list of image "
                f"counts if there are several"
            )

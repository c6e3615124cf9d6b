"""RepeatFactorSampler: factors, sequence, several processes, mmengine's loops, the config."""

from __future__ import annotations

import itertools
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmdet.datasets import LVISV1Dataset, MultiImageMixDataset
from mmdet.datasets.samplers import AspectRatioBatchSampler
from mmengine.config import Config
from mmengine.dataset import ClassBalancedDataset, RepeatDataset
from mmengine.model import BaseModel
from mmengine.registry import DATA_SAMPLERS, DATASETS
from mmengine.runner import Runner
from processes import in_processes
from torch import distributed as dist

from mmdet_droploss.datasets import (
    FastLVISV05Dataset,
    FastLVISV1Dataset,
    RepeatFactorSampler,
    repeat_factor_sampler,
    repeat_factors,
)

ROOT = Path(__file__).resolve().parents[2]
THRESHOLD = 0.5


@DATASETS.register_module()
class Labels(torch.utils.data.Dataset):
    """A data set of nothing but labels; an item is its index."""

    metainfo = dict(classes=("a", "b", "c"))

    def __init__(self, labels_of):
        self.labels_of = labels_of

    def __len__(self):
        return len(self.labels_of)

    def __getitem__(self, index):
        return dict(inputs=index)

    def get_cat_ids(self, index):
        return self.labels_of[index]

    def get_data_info(self, index):
        return dict(width=50, height=40 + 20 * (index % 2))


#: Label 0 is in 7 of 10 images, 1 in 3, 2 in one; one image has none.
LABELS = [[0], [0, 0], [0, 1], [0], [], [1, 0], [0], [1], [2, 0], [0] * 9]
FACTORS = {1: math.sqrt(THRESHOLD / 0.3), 2: math.sqrt(THRESHOLD / 0.1)}
LENGTH = math.ceil(6 + 3 * FACTORS[1] + FACTORS[2])


def sampler(labels_of=LABELS, threshold=THRESHOLD, seed=3, **options):
    return RepeatFactorSampler(Labels(labels_of), threshold, seed=seed, **options)


def take(indices, count):
    return list(itertools.islice(indices, count))


def in_process(monkeypatch, rank, world_size):
    monkeypatch.setattr(repeat_factor_sampler, "get_dist_info", lambda: (rank, world_size))


def passes(number, **options):
    """The first passes over the data set: without shuffling they are seen in the sequence."""
    result = [[]]
    for index in sampler(infinite=True, shuffle=False, **options):
        if result[-1] and index < result[-1][-1]:
            if len(result) == number:
                return result
            result.append([])
        result[-1].append(index)


# ---------------------------------------------------------------- factors


def factors_of_detectron2(labels_of, threshold):
    """RepeatFactorTrainingSampler.repeat_factors_from_category_frequency, in plain Python."""
    images_with = {}
    for labels in labels_of:
        for label in set(labels):
            images_with[label] = images_with.get(label, 0) + 1
    repeat = {
        label: max(1.0, math.sqrt(threshold / (count / len(labels_of))))
        for label, count in images_with.items()
    }
    return [max({repeat[label] for label in set(labels)}, default=1.0) for labels in labels_of]


def packed(labels_of):
    labels = np.array([label for labels in labels_of for label in labels], np.int32)
    return labels, np.cumsum([len(labels) for labels in labels_of], dtype=np.int64)


@pytest.mark.filterwarnings("error::RuntimeWarning")
@given(
    labels_of=st.lists(st.lists(st.integers(0, 7) | st.just(1202), max_size=6), min_size=1),
    threshold=st.floats(0, 1) | st.sampled_from([0, 1, 1e-3]),
)
def test_factors_are_those_of_detectron2(labels_of, threshold):
    got = repeat_factors(*packed(labels_of), threshold)
    assert got.tolist() == pytest.approx(factors_of_detectron2(labels_of, threshold), rel=1e-12)
    assert (got >= 1).all()
    assert sampler(labels_of, threshold).factors.tolist() == got.tolist()


def test_factors_of_a_small_data_set():
    """By hand."""
    expected = [1, 1, FACTORS[1], 1, 1, FACTORS[1], 1, FACTORS[1], FACTORS[2], 1]
    assert sampler().factors.tolist() == pytest.approx(expected)


def test_factors_of_large_data_sets():
    """Whole numbers must not overflow: LVIS has 1e5 images and 1e3 categories."""
    num_images, classes = 300_000, 20_000
    labels = np.arange(num_images, dtype=np.int32) % classes
    factors = repeat_factors(labels, np.arange(1, num_images + 1), 1.0)
    assert factors == pytest.approx(np.full(num_images, math.sqrt(classes)))


def test_without_any_object_each_image_comes_once():
    assert sampler([[], [], []]).factors.tolist() == [1, 1, 1]


def test_threshold_zero_shows_each_image_once():
    for threshold in (0, 0.0):
        one = sampler(threshold=threshold)
        assert len(one) == len(LABELS)
        for epoch in range(3):
            one.set_epoch(epoch)
            assert sorted(one) == list(range(len(LABELS)))


# ---------------------------------------------------------------- the sequence


def test_each_pass_has_the_floor_or_the_ceiling_of_the_factor():
    factors = sampler().factors
    seen = [set() for _ in LABELS]
    for indices in passes(200):
        counts = np.bincount(indices, minlength=len(LABELS))
        assert (counts >= np.floor(factors)).all() and (counts <= np.ceil(factors)).all()
        for image, count in enumerate(counts.tolist()):
            seen[image].add(count)
    for image, factor in enumerate(factors):
        assert seen[image] == {math.floor(factor), math.ceil(factor)}, "both occur"


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_mean_of_the_repeats_is_the_factor(seed):
    number = 3000
    repeats = np.array([np.bincount(p, minlength=len(LABELS)) for p in passes(number, seed=seed)])
    factors = sampler().factors
    fraction = factors % 1
    error = np.sqrt(fraction * (1 - fraction) / number)
    assert (np.abs(repeats.mean(0) - factors) <= 4.5 * error + 1e-12).all()
    rounded_up = repeats[:, [2, 5, 7, 8]] > np.floor(factors[[2, 5, 7, 8]])
    correlation = np.corrcoef(rounded_up.T) - np.eye(4)
    assert np.abs(correlation).max() < 4.5 / math.sqrt(number), "each image is drawn on its own"


def test_a_shuffled_pass_has_the_images_of_the_unshuffled_one():
    shuffled = iter(sampler(infinite=True))
    orders = set()
    for indices in passes(20):
        got = take(shuffled, len(indices))
        assert sorted(got) == indices
        orders.add(tuple(got))
        assert got != indices
    assert len(orders) == 20


def test_shuffling_brings_every_image_to_every_place():
    count = 2000
    first = np.zeros(len(LABELS))
    for seed in range(count):
        first[next(iter(sampler(seed=seed, threshold=0)))] += 1
    assert (np.abs(first / count - 0.1) < 4.5 * math.sqrt(0.1 * 0.9 / count)).all()


@pytest.mark.parametrize("infinite", [True, False])
def test_the_seed_alone_decides(infinite):
    def of(seed):
        return take(sampler(seed=seed, infinite=infinite), 10)

    np.random.seed(0)
    torch.manual_seed(0)
    first = of(5)
    np.random.seed(1)
    torch.manual_seed(1)
    assert of(5) == first
    assert len({tuple(of(seed)) for seed in range(10)}) == 10


def test_iterating_again_begins_anew():
    one = sampler(infinite=True)
    iterator = iter(one)
    first = take(iterator, 50)
    assert take(one, 50) == first, "while another iteration is under way"
    assert take(iterator, 50) != first


def test_without_a_seed_runs_differ():
    drawn = {tuple(take(sampler(seed=None, infinite=True), 30)) for _ in range(5)}
    assert len(drawn) == 5


def test_indices_are_python_ints():
    assert {type(index) for index in take(sampler(infinite=True), 40)} == {int}
    assert {type(index) for index in sampler()} == {int}


# ---------------------------------------------------------------- epochs


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_epochs_are_consecutive_parts_of_the_infinite_sequence(monkeypatch, world_size):
    for rank in range(world_size):
        in_process(monkeypatch, rank, world_size)
        finite, infinite = sampler(), iter(sampler(infinite=True))
        assert len(finite) == math.ceil(finite.factors.sum() / world_size)
        for epoch in range(12):
            finite.set_epoch(epoch)
            got = list(finite)
            assert len(got) == len(finite), "equal in all processes and epochs"
            assert got == take(infinite, len(finite))


def test_an_epoch_can_be_chosen_at_once():
    """As when a run is resumed."""
    parts = take(sampler(infinite=True), 40 * LENGTH)
    one = sampler()
    for epoch in (39, 0, 17):
        one.set_epoch(epoch)
        assert list(one) == parts[epoch * LENGTH : (epoch + 1) * LENGTH]
        assert list(one) == parts[epoch * LENGTH : (epoch + 1) * LENGTH], "and again"


def test_set_epoch_does_not_move_the_infinite_sequence():
    """mmengine's hook calls it in all loops."""
    one = sampler(infinite=True)
    first = take(one, 30)
    one.set_epoch(3)
    assert take(one, 30) == first


def test_a_single_image_works():
    one = sampler([[0]])
    assert len(one) == 1 and list(one) == [0]
    assert take(sampler([[0]], infinite=True), 5) == [0] * 5


# ---------------------------------------------------------------- several processes


@pytest.mark.parametrize("infinite", [True, False])
@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("world_size", [2, 3, 8])
def test_the_processes_interleave_to_the_sequence_of_one(
    monkeypatch, world_size, infinite, shuffle
):
    options = dict(infinite=infinite, shuffle=shuffle)
    whole = take(sampler(infinite=True, shuffle=shuffle), 12 * world_size)
    parts = []
    for rank in range(world_size):
        in_process(monkeypatch, rank, world_size)
        parts.append(take(sampler(**options), 12))
    count = min(map(len, parts))
    assert len({len(part) for part in parts}) == 1
    together = [index for step in zip(*parts, strict=True) for index in step]
    assert together == whole[: count * world_size]


def test_processes_show_different_images_in_a_pass(monkeypatch):
    """Where no image is repeated, no two processes have the same."""
    parts = []
    for rank in range(2):
        in_process(monkeypatch, rank, 2)
        parts.append(take(sampler(threshold=0, infinite=True), 5))
    assert sorted(parts[0] + parts[1]) == list(range(10))


def _draw(seed):
    rank = dist.get_rank()
    torch.manual_seed(rank)
    np.random.seed(rank)
    finite, infinite = (sampler(seed=seed, infinite=value) for value in (False, True))
    finite.set_epoch(1)
    drawn = dict(
        seeds=[finite.seed, infinite.seed], finite=list(finite), infinite=take(infinite, 40)
    )
    Path(f"{rank}.json").write_text(json.dumps(drawn))
    dist.barrier()


@pytest.mark.parametrize("seed", [3, None])
def test_two_real_processes(tmp_path, seed):
    """Also where the seed is drawn: it is the same in both."""
    in_processes(2, tmp_path, _draw, seed)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first["seeds"] == second["seeds"]
    finite_seed, infinite_seed = first["seeds"]
    assert (finite_seed == infinite_seed == 3) is (seed == 3)
    together = [i for pair in zip(first["infinite"], second["infinite"], strict=True) for i in pair]
    assert together == take(sampler(seed=infinite_seed, infinite=True), 80)
    length = math.ceil(sampler().factors.sum() / 2)
    together = [i for pair in zip(first["finite"], second["finite"], strict=True) for i in pair]
    whole = take(sampler(seed=finite_seed, infinite=True), 4 * length)
    assert together == whole[2 * length :]


# ---------------------------------------------------------------- real data sets


def content(labels_of=LABELS, num_classes=3):
    """An LVIS annotation file; the ids of its categories are 10, 20, 30, ..."""
    images = [
        {
            "id": index + 1,
            "height": 40 + 20 * (index % 2),
            "width": 50,
            "file_name": f"{index}.jpg",
            "coco_url": f"http://images.cocodataset.org/train2017/{index}.jpg",
        }
        for index in range(len(labels_of))
    ]
    pairs = [(index, label) for index, labels in enumerate(labels_of) for label in labels]
    annotations = [
        {
            "id": number,
            "image_id": index + 1,
            "category_id": 10 * label + 10,
            "bbox": [1, 2, 30, 20],
            "area": 600,
        }
        for number, (index, label) in enumerate(pairs)
    ]
    categories = [{"id": 10 * label + 10, "name": str(label)} for label in range(num_classes)]
    return {"images": images, "annotations": annotations, "categories": categories}


@pytest.fixture
def ann_file(tmp_path):
    path = tmp_path / "lvis_train.json"
    path.write_text(json.dumps(content()))
    return str(path)


OPTIONS = dict(data_prefix=dict(img="images/"))


def test_no_image_is_decoded_where_the_labels_are_at_hand(ann_file, monkeypatch):
    dataset = FastLVISV1Dataset(ann_file, **OPTIONS)
    monkeypatch.setattr(dataset, "get_data_info", None)
    monkeypatch.setattr(dataset, "get_cat_ids", None)
    assert RepeatFactorSampler(dataset, THRESHOLD).factors.tolist() == sampler().factors.tolist()


@pytest.mark.parametrize(
    "build",
    [
        lambda path: LVISV1Dataset(path, **OPTIONS),
        lambda path: FastLVISV1Dataset(path, cache=False, **OPTIONS),
        lambda path: FastLVISV1Dataset(path, serialize_data=False, **OPTIONS),
        lambda path: FastLVISV1Dataset(path, lazy_init=True, **OPTIONS),
        lambda path: FastLVISV05Dataset(path, **OPTIONS).get_subset(list(range(10))),
        lambda path: ClassBalancedDataset(FastLVISV1Dataset(path, **OPTIONS), 1e-9),
        lambda path: MultiImageMixDataset(FastLVISV1Dataset(path, **OPTIONS), []),
    ],
    ids=["mmdet", "no cache", "unserialized", "lazy", "subset", "wrapper", "mixed images"],
)
def test_factors_are_the_same_whatever_data_set_has_the_labels(ann_file, build):
    got = RepeatFactorSampler(build(ann_file), THRESHOLD, seed=3, infinite=True)
    assert got.factors.tolist() == sampler().factors.tolist()
    assert take(got, 50) == take(sampler(infinite=True), 50)


def test_a_filtered_data_set_counts_what_is_left(ann_file):
    options = dict(filter_cfg=dict(filter_empty_gt=True), **OPTIONS)
    got = RepeatFactorSampler(FastLVISV1Dataset(ann_file, **options), THRESHOLD)
    left = [labels for labels in LABELS if labels]
    assert got.factors.tolist() == pytest.approx(factors_of_detectron2(left, THRESHOLD))


def test_a_subset_counts_its_own_images(ann_file):
    subset = FastLVISV1Dataset(ann_file, **OPTIONS).get_subset([8, 2, 2, 4])
    got = RepeatFactorSampler(subset, THRESHOLD)
    expected = factors_of_detectron2([LABELS[index] for index in (8, 2, 2, 4)], THRESHOLD)
    assert got.factors.tolist() == pytest.approx(expected)


# ---------------------------------------------------------------- bad arguments


@pytest.mark.parametrize(
    "threshold",
    [-1, 2, 1.0001, -1e-9, "x", "0.001", None, True, False, math.nan, math.inf, [0.001]],
    ids=str,
)
def test_a_bad_threshold_is_named(threshold):
    with pytest.raises(ValueError, match=r"threshold must.*\[0, 1\]") as caught:
        sampler(threshold=threshold)
    assert str(caught.value).endswith(f"but it is {threshold!r}")


@pytest.mark.parametrize("threshold", [0, 1, np.float64(0.5), 5e-4])
def test_good_thresholds(threshold):
    assert len(sampler(threshold=threshold)) >= len(LABELS)


def test_an_empty_data_set_is_an_error(tmp_path):
    path = tmp_path / "empty.json"
    path.write_text(json.dumps(content([])))
    for dataset in (Labels([]), FastLVISV1Dataset(str(path), **OPTIONS, test_mode=True)):
        with pytest.raises(ValueError, match="the data set is empty"):
            RepeatFactorSampler(dataset, THRESHOLD)


# ---------------------------------------------------------------- mmengine's loops


class Recorder(BaseModel):
    """Keeps the indices of the images that it is trained on."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.batches = []

    def forward(self, inputs, mode="tensor"):
        self.batches.append([int(index) for index in inputs])
        return dict(loss=self.weight * 1.0)


def train(work_dir, loop, sampler_options, resume=False, batch_sampler=None, num_workers=0):
    """Run mmengine's Runner; returns the batches in order."""
    model = Recorder()
    batch_size = 4
    dataloader = dict(
        dataset=dict(type="Labels", labels_of=LABELS),
        sampler=dict(type="RepeatFactorSampler", threshold=THRESHOLD, **sampler_options),
        num_workers=num_workers,
        batch_size=batch_size,
    )
    if batch_sampler is not None:
        dataloader["batch_sampler"] = batch_sampler
    by_epoch = loop.get("by_epoch", True)
    runner = Runner(
        model,
        str(work_dir),
        train_dataloader=dataloader,
        train_cfg=loop,
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.1)),
        default_hooks=dict(checkpoint=dict(type="CheckpointHook", interval=2, by_epoch=by_epoch)),
        resume=resume,
        randomness=dict(seed=3),
        default_scope="mmdet",
        experiment_name=f"rfs_{os.path.basename(work_dir)}_{resume}",
        log_level="ERROR",
    )
    runner.train()
    return model.batches


def flat(batches):
    return [index for batch in batches for index in batch]


def epochs(number):
    return dict(by_epoch=True, max_epochs=number)


def iterations(number):
    return dict(by_epoch=False, max_iters=number)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_epoch_based_run_sees_the_sequence(tmp_path, num_workers):
    batches = train(tmp_path, epochs(3), {}, num_workers=num_workers)
    assert len(batches) == 3 * math.ceil(LENGTH / 4)
    assert flat(batches) == take(sampler(infinite=True), 3 * LENGTH)


def test_an_epoch_based_run_goes_on_where_it_ended(tmp_path):
    first = train(tmp_path, epochs(2), {})
    rest = train(tmp_path, epochs(5), {}, resume=True)
    assert flat(first + rest) == take(sampler(infinite=True), 5 * LENGTH)


def test_an_iteration_based_run_sees_the_sequence(tmp_path):
    batches = train(tmp_path, iterations(15), dict(infinite=True))
    assert flat(batches) == take(sampler(infinite=True), 60)


@pytest.mark.parametrize("batch_sampler", [None, dict(type="AspectRatioBatchSampler")], ids=str)
def test_an_iteration_based_run_goes_on_where_it_ended(tmp_path, batch_sampler):
    options = dict(sampler_options=dict(infinite=True), batch_sampler=batch_sampler)
    whole = train(tmp_path / "whole", iterations(15), **options)
    first = train(tmp_path / "parts", iterations(6), **options)
    rest = train(tmp_path / "parts", iterations(15), resume=True, **options)
    assert first == whole[:6]
    # Before it goes on, the loop draws what has been seen, without showing it to the model.
    assert rest == whole[6:]


def test_a_finite_sampler_in_an_iteration_based_run_begins_no_pass_anew(tmp_path, monkeypatch):
    """mmengine waits two seconds between the epochs of such a loader."""
    import mmengine.runner.loops

    monkeypatch.setattr(mmengine.runner.loops.time, "sleep", lambda seconds: None)
    batches = train(tmp_path, iterations(3 * math.ceil(LENGTH / 4)), {})
    assert flat(batches) == take(sampler(infinite=True), 3 * LENGTH)


def test_batches_of_one_aspect_ratio(ann_file):
    """mmdet's batch sampler asks the sampler for its data set."""
    dataset = FastLVISV1Dataset(ann_file, **OPTIONS)
    one = RepeatFactorSampler(dataset, THRESHOLD, infinite=True, seed=3)
    batches = take(AspectRatioBatchSampler(one, batch_size=3), 30)
    assert {len(batch) for batch in batches} == {3}
    assert all(len({index % 2 for index in batch}) == 1 for batch in batches)
    expected = take(one, 200)
    for side in (0, 1):
        got = [index for batch in batches for index in batch if index % 2 == side]
        assert got == [index for index in expected if index % 2 == side][: len(got)]


# ---------------------------------------------------------------- the config


@pytest.fixture
def leaf(tmp_path):
    """A config of a user who wants RFS."""
    path = tmp_path / "droploss_with_rfs.py"
    base = ROOT / "configs" / "droploss" / "mask_rcnn_r50_fpn_lvis.py"
    path.write_text(f'_base_ = "{base}"\ntrain_dataloader = dict(sampler=_base_.rfs_sampler)\n')
    return Config.fromfile(path)


def test_a_leaf_switches_rfs_on(leaf):
    assert leaf.train_dataloader.sampler.to_dict() == dict(
        type="RepeatFactorSampler", threshold=5e-4, infinite=True, shuffle=True
    )
    assert leaf.val_dataloader.sampler.type == "DefaultSampler"
    assert leaf.train_dataloader.batch_sampler.type == "AspectRatioBatchSampler"


def test_the_sampler_may_replace_a_whole_dataloader(tmp_path, leaf):
    """Within a dict that is replaced, MMEngine does not look for ``_delete_`` any more."""
    path = tmp_path / "other.py"
    path.write_text(
        f'_base_ = "{leaf.filename}"\n'
        "train_dataloader = dict(_delete_=True, batch_size=1, sampler=_base_.rfs_sampler)\n"
    )
    cfg = Config.fromfile(path)
    assert cfg.train_dataloader.to_dict() == dict(
        batch_size=1, sampler=leaf.train_dataloader.sampler.to_dict()
    )


def test_the_threshold_can_be_overridden_on_the_command_line(leaf):
    leaf.merge_from_dict({"train_dataloader.sampler.threshold": 1e-3})
    one = DATA_SAMPLERS.build(
        leaf.train_dataloader.sampler, default_args=dict(dataset=Labels(LABELS), seed=3)
    )
    assert type(one) is RepeatFactorSampler and one.infinite and one.shuffle
    assert one.factors.tolist() == sampler(threshold=1e-3).factors.tolist()


def test_the_configs_loader_shows_rare_categories_more_often(leaf, tmp_path):
    """With the data set, batch sampler and worker processes of the config."""
    labels_of = [[0]] * 400 + [[1, 0]]
    path = tmp_path / "lvis_v0.5.json"
    path.write_text(json.dumps(content(labels_of)))
    leaf.merge_from_dict({"train_dataloader.sampler.threshold": 1.0})
    leaf.train_dataloader.dataset.update(ann_file=str(path), pipeline=[])
    leaf.train_dataloader.collate_fn = dict(type=list)
    loader = Runner.build_dataloader(leaf.train_dataloader, seed=3)
    assert type(loader.batch_sampler) is AspectRatioBatchSampler
    assert type(loader.dataset) is FastLVISV05Dataset and loader.num_workers == 2
    batches = take(loader, 300)
    assert all(len({item["height"] for item in batch}) == 1 for batch in batches)
    ids = [item["img_id"] for item in flat(batches)]
    assert len(ids) == 600
    # A pass has 400 images of the frequent category, and sqrt(401) = 20.02 times the rare one.
    assert 16 <= ids.count(401) <= 42
    assert max(ids.count(image_id) for image_id in range(1, 401)) == 2


def test_concatenated_data_sets_count_as_one(tmp_path):
    parts = [Labels([[0], [0, 1], []]), Labels([[1, 1], [2]])]
    whole = Labels([[0], [0, 1], [], [1, 1], [2]])
    expected = RepeatFactorSampler(whole, 0.9, seed=0).factors
    concatenated = torch.utils.data.ConcatDataset(parts)  # as mmengine's and mmdet's
    got = RepeatFactorSampler(concatenated, 0.9, seed=0).factors
    assert got.tolist() == expected.tolist() and expected.max() > 1


def test_a_wrapper_that_repeats_images_itself_is_refused(ann_file):
    repeated = RepeatDataset(FastLVISV1Dataset(ann_file, **OPTIONS), 2)
    with pytest.raises(TypeError, match="RepeatDataset has no get_cat_ids. Give it the data set"):
        RepeatFactorSampler(repeated, 0.9)


def test_a_data_set_that_does_not_tell_its_labels_is_refused():
    with pytest.raises(TypeError, match="labels of each image.*list has no get_cat_ids"):
        RepeatFactorSampler([1, 2, 3], 0.1)

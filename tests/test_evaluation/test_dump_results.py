"""Predictions streamed to a pickle: the same file as mmdet's, one process or two."""

from __future__ import annotations

import os

import mmengine
import pytest
import torch
from mmdet.evaluation import DumpDetResults
from processes import in_processes
from torch import distributed as dist

from mmdet_droploss.evaluation.dump_results import StreamedDetResults


def predictions(num_images: int) -> list[dict]:
    generator = torch.Generator().manual_seed(0)
    samples = []
    for image_id in range(num_images):
        count = image_id % 4
        samples.append(
            dict(
                img_id=image_id,
                ori_shape=(20, 30),
                gt_instances=dict(labels=torch.zeros(3)),
                pred_instances=dict(
                    bboxes=torch.rand(count, 4, generator=generator),
                    scores=torch.rand(count, generator=generator),
                    labels=torch.arange(count),
                    masks=torch.rand(count, 20, 30, generator=generator) > 0.5,
                ),
            )
        )
    return samples


def dump(metric, samples, size, batch_size=2):
    for start in range(0, len(samples), batch_size):
        metric.process({}, samples[start : start + batch_size])
    return metric.evaluate(size)


def assert_equal(first, second):
    assert type(first) is type(second)
    if isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            assert_equal(first[key], second[key])
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second)
        for a, b in zip(first, second, strict=True):
            assert_equal(a, b)
    elif isinstance(first, torch.Tensor):
        assert first.dtype == second.dtype and torch.equal(first, second)
    else:
        assert first == second


@pytest.mark.parametrize("num_images", [1, 7])
def test_the_file_is_that_of_mmdet(tmp_path, num_images):
    dump(DumpDetResults(str(tmp_path / "mmdet.pkl")), predictions(num_images), num_images)
    metric = StreamedDetResults(str(tmp_path / "new" / "ours.pkl"))
    assert dump(metric, predictions(num_images), num_images) == {}
    expected = mmengine.load(tmp_path / "mmdet.pkl")
    assert len(expected) == num_images and "gt_instances" not in expected[0]
    assert_equal(mmengine.load(tmp_path / "new" / "ours.pkl"), expected)
    assert os.listdir(tmp_path / "new") == ["ours.pkl"]


def test_nothing_stays_in_memory_and_a_second_run_starts_anew(tmp_path):
    metric = StreamedDetResults(str(tmp_path / "ours.pkl"))
    for _ in range(2):
        metric.process({}, predictions(5))
        assert metric.results == []
        metric.evaluate(5)
        assert len(mmengine.load(tmp_path / "ours.pkl")) == 5


def _dump(num_images):
    samples = predictions(num_images)
    dealt = samples + samples[: num_images % 2]  # as DefaultSampler fills up the last round
    dump(StreamedDetResults("ours.pkl"), dealt[dist.get_rank() :: 2], num_images)


def test_two_processes_write_the_file_of_one(tmp_path):
    dump(DumpDetResults(str(tmp_path / "mmdet.pkl")), predictions(5), 5)
    in_processes(2, tmp_path, _dump, 5)
    assert_equal(mmengine.load(tmp_path / "ours.pkl"), mmengine.load(tmp_path / "mmdet.pkl"))


def test_the_name_must_be_that_of_a_pickle(tmp_path):
    with pytest.raises(ValueError, match="must be a pkl file"):
        StreamedDetResults(str(tmp_path / "ours.json"))

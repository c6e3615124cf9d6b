"""What train.py and test.py refuse at once, since it would fail hours later."""

from __future__ import annotations

import json

import pytest
import torch
from mmengine.config import Config
from mmengine.utils import digit_version

from mmdet_droploss.engine import forget_missing_class_freq, prepare_run

needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="about machines without GPU")


def config(**changes):
    return Config(dict(model=dict(type="MaskRCNN"), **changes))


@pytest.mark.parametrize("name", ["val_evaluator", "test_evaluator"])
@pytest.mark.parametrize("form", [dict, lambda e: [dict(type="CocoMetric"), e]], ids=["one", "two"])
def test_mmdets_lvis_metric_is_refused_with_current_numpy(name, form):
    import numpy as np

    if digit_version(np.__version__) < digit_version("1.24"):
        pytest.skip("here it works")
    cfg = config(**{name: form(dict(type="LVISMetric", ann_file="x"))})
    with pytest.raises(ValueError, match=f"{name} is LVISMetric.*np.float.*FastLVISMetric"):
        prepare_run(cfg, "none")


@pytest.mark.parametrize("evaluator", [dict(type="FastLVISMetric"), dict(type="CocoMetric"), None])
def test_other_metrics_pass(evaluator):
    cfg = config(val_evaluator=evaluator, test_evaluator=evaluator)
    prepare_run(cfg, "none")
    assert cfg.launcher == "none"
    assert cfg.get("model_wrapper_cfg") is None


@needs_no_gpu
@pytest.mark.parametrize("launcher", ["slurm", "mpi"])
def test_other_launchers_need_a_gpu(launcher):
    with pytest.raises(ValueError, match=f"--launcher must be 'none' or 'pytorch'.*{launcher!r}"):
        prepare_run(config(), launcher)


@needs_no_gpu
def test_the_launchers_variables_are_missed(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(RuntimeError, match="torchrun.*RANK, WORLD_SIZE.*dist_train.sh"):
        prepare_run(config(), "pytorch")


@needs_no_gpu
def test_cpu_processes_get_gloo_and_a_wrapper_that_works(monkeypatch):
    from torch import distributed as dist

    with_port = dict(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1")
    for name, value in {**with_port, "MASTER_PORT": "0"}.items():
        monkeypatch.setenv(name, value)
    cfg = config(find_unused_parameters=True)
    try:
        prepare_run(cfg, "pytorch")
        assert dist.get_backend() == "gloo"
    finally:
        dist.destroy_process_group()
    assert cfg.model_wrapper_cfg.type == "CPUDistributedDataParallel"
    assert cfg.model_wrapper_cfg.find_unused_parameters is True


@pytest.mark.parametrize("gpus, rank", [(1, 1), (2, 5), (0, 0)])
def test_more_processes_than_gpus_are_refused(monkeypatch, gpus, rank):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setenv("LOCAL_RANK", str(rank))
    with pytest.raises(RuntimeError, match=f"process {rank} .*no GPU.*there are {gpus}"):
        prepare_run(config(), "pytorch")


def test_a_missing_frequency_file_is_forgotten_for_a_test(tmp_path):
    """In a cascade, too: the stages may be a list."""
    there = tmp_path / "there.json"
    there.write_text(json.dumps({"image_count": [1]}))
    heads = [
        dict(loss_cls=dict(class_freq="gone/train.json")),
        dict(loss_cls=dict(class_freq=str(there))),
        dict(loss_cls=dict(class_freq="lvis_v1")),
        dict(loss_cls=dict(class_freq=[1, 2])),
        dict(loss_cls=dict(class_freq=None)),
        dict(loss_cls=dict(type="CrossEntropyLoss")),
    ]
    cfg = Config(dict(model=dict(roi_head=dict(bbox_head=heads))))
    forget_missing_class_freq(cfg)
    got = [head.loss_cls.get("class_freq") for head in cfg.model.roi_head.bbox_head]
    assert got == [None, str(there), "lvis_v1", [1, 2], None, None]

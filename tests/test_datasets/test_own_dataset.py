"""docs/own_dataset.md, followed from a data set to a trained and tested model.

The data set is in COCO's format, without LVIS's fields.
"""

from __future__ import annotations

import copy
import importlib.util
import json
import re
import shlex
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmdet.registry import DATASETS, METRICS, MODELS
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope
from mmengine.runner import Runner

from mmdet_droploss.datasets import FastCocoDataset, load_class_frequency

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs"
#: The two commands of the page.
COMMANDS = re.search(
    r"^```bash\n(.*?)^```$", (ROOT / "docs" / "own_dataset.md").read_text("utf-8"), re.M | re.S
)[1].splitlines()
NAMES = ("ant", "bee", "cicada")
#: Training images of each: frequent, common and rare. Their ids are neither 1 to C nor sorted.
IMAGES_WITH = (105, 20, 4)
CATEGORY_IDS = (17, 5, 40)
WIDTH, HEIGHT = 64, 48


@pytest.fixture(autouse=True)
def _surroundings(tmp_path, monkeypatch):
    monkeypatch.setenv("MMDET_DROPLOSS_CACHE", str(tmp_path / "cache"))
    # MMEngine's logger is one for the whole process.
    MMLogger.get_instance("test", logger_name="test", log_level="INFO")
    with DefaultScope.overwrite_default_scope("mmdet"):
        yield


def draw(labels, rng):
    """A picture of some objects, and their polygons; each category has its own colour."""
    picture = rng.integers(0, 60, (HEIGHT, WIDTH, 3), np.uint8)
    polygons = []
    for label in labels:
        x, y = rng.integers(0, (WIDTH - 26, HEIGHT - 22)).tolist()
        w, h = rng.integers(12, (26, 22)).tolist()
        polygon = [[x, y], [x + w, y], [x + w, y + h], [x, y + h // 2]]
        cv2.fillPoly(picture, [np.array(polygon)], [40 if c == label else 230 for c in range(3)])
        polygons.append((polygon, [x, y, w, h]))
    return picture, polygons


def write_set(root, name, labels_by_image, rng):
    """A set in COCO's format and nothing more: no frequency, no counts, no neg_category_ids."""
    images, annotations = [], []
    for index, labels in enumerate(labels_by_image):
        file_name = f"{name}_{index}.png"
        picture, polygons = draw(labels, rng)
        cv2.imwrite(str(root / "images" / file_name), picture)
        images.append(dict(id=index + 1, file_name=file_name, width=WIDTH, height=HEIGHT))
        for label, (polygon, box) in zip(labels, polygons, strict=True):
            area = cv2.contourArea(np.array(polygon))
            ids = dict(id=len(annotations) + 1, image_id=index + 1, category_id=CATEGORY_IDS[label])
            shape = dict(bbox=box, area=area, segmentation=[np.ravel(polygon).tolist()], iscrowd=0)
            annotations.append(ids | shape)
    categories = [dict(id=i, name=n) for i, n in zip(CATEGORY_IDS, NAMES, strict=True)]
    content = dict(images=images, annotations=annotations, categories=categories)
    (root / f"{name}.json").write_text(json.dumps(content))


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with the page's data set under data/mine, and its config as my_config.py."""
    folder = tmp_path_factory.mktemp("home")
    root = folder / "data" / "mine"
    (root / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    # The last image has no annotation; training leaves it out.
    train = [[c for c, n in enumerate(IMAGES_WITH) if i < n] for i in range(max(IMAGES_WITH) + 1)]
    write_set(root, "train", train, rng)
    write_set(root, "val", [[0, 1, 2]] * 3 + [[]], rng)
    return folder


def tool(path):
    """A script of the repository as a module."""
    spec = importlib.util.spec_from_file_location(f"{Path(path).stem}_tool", ROOT / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def page_config(home, *more):
    """The config that the page's first command writes, read."""
    program, script, *arguments = shlex.split(COMMANDS[0])
    assert program == "python"
    tool(script).main([*arguments, "--overwrite", *more])
    return Config.fromfile(home / "my_config.py")


def test_the_config_that_the_page_shows_is_what_the_command_writes(home, monkeypatch):
    monkeypatch.chdir(home)
    page_config(home)
    written = (home / "my_config.py").read_text().splitlines()
    page = (ROOT / "docs" / "own_dataset.md").read_text("utf-8")
    (block,) = re.findall(r"^```python\n(_base_.*?)^```$", page, re.M | re.S)
    shown = [line for line in block.splitlines() if line and not line.startswith("_base_")]
    assert len(shown) > 10 and [line for line in shown if line not in written] == []


def groups(metric):
    return [category.get("frequency") for category in metric.ground_truth.categories]


def test_the_config_of_the_page_reads_coco_annotations(home, monkeypatch):
    monkeypatch.chdir(home)
    cfg = page_config(home)
    train, val = (
        DATASETS.build(loader.dataset) for loader in (cfg.train_dataloader, cfg.val_dataloader)
    )
    assert type(train) is type(val) is FastCocoDataset
    assert train.metainfo["classes"] == val.metainfo["classes"] == NAMES
    assert (len(train), len(val)) == (max(IMAGES_WITH), 4), "one for training has no annotation"
    first = train.get_data_info(0)
    assert first["img_path"] == "data/mine/images/train_0.png"
    assert [instance["bbox_label"] for instance in first["instances"]] == [0, 1, 2]
    assert all(len(instance["mask"][0]) == 8 for instance in first["instances"])

    head = MODELS.build(cfg.model.roi_head.bbox_head)
    assert (type(head.loss_cls).__name__, head.fc_cls.out_features) == ("DropLoss", 3)
    assert head.loss_cls.tail.tolist() == [False, True, True]
    assert MODELS.build(cfg.model.roi_head.mask_head).num_classes == 3
    assert groups(METRICS.build(cfg.val_evaluator)) == ["f", "c", "r"]


def test_a_wrong_number_of_classes_is_refused(home, monkeypatch):
    monkeypatch.chdir(home)
    cfg = page_config(home)
    cfg.model.roi_head.bbox_head.loss_cls.num_classes = 4
    with pytest.raises(ValueError, match="num_classes=4 does not agree.* has 3 categories"):
        MODELS.build(cfg.model.roi_head.bbox_head.loss_cls)


def test_the_small_json_takes_the_place_of_the_annotation_file(home, monkeypatch, capsys):
    monkeypatch.chdir(home)
    arguments = ["data/mine/train.json", "--out", "data/mine/frequencies.json"]
    tool("tools/analysis_tools/class_frequency.py").main(arguments)
    assert "3 categories, 105 annotated images" in capsys.readouterr().out

    paths = ["data/mine/train.json", "data/mine/frequencies.json"]
    annotations, small = map(load_class_frequency, paths)
    assert annotations.image_count.tolist() == small.image_count.tolist() == [*IMAGES_WITH]
    for lambda_ in (None, 0.1):
        losses = [
            MODELS.build(dict(type="DropLoss", num_classes=3, class_freq=path, lambda_=lambda_))
            for path in paths
        ]
        tails = [loss.tail.tolist() for loss in losses]
        assert tails == [[False, lambda_ is None, True]] * 2
    for path in [*paths, list(IMAGES_WITH)]:
        evaluator = dict(type="FastLVISMetric", ann_file="data/mine/val.json", class_freq=path)
        assert groups(METRICS.build(evaluator)) == ["f", "c", "r"]


def evaluate(evaluator, detections):
    """The metrics of boxes: (image id, (x, y, w, h), score, label)."""
    metric = METRICS.build({**evaluator, "metric": "bbox"})
    for image_id in metric.ground_truth.image_ids:
        of_image = [entry for entry in detections if entry[0] == image_id]
        boxes = torch.tensor([box for _, box, _, _ in of_image], dtype=torch.float).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        prediction = dict(
            bboxes=boxes,
            scores=torch.tensor([score for _, _, score, _ in of_image]),
            labels=torch.tensor([label for *_, label in of_image], dtype=torch.long),
        )
        metric.process({}, [dict(img_id=image_id, pred_instances=prediction)])
    metrics = metric.evaluate(len(metric.ground_truth))
    return [metrics[f"lvis/bbox_{key}"] for key in ("AP", "APr", "APc", "APf")]


def test_what_the_metric_makes_of_coco_annotations(home, monkeypatch):
    monkeypatch.chdir(home)
    evaluator = page_config(home).val_evaluator
    content = json.loads((home / "data" / "mine" / "val.json").read_text())
    objects = [
        (entry["image_id"], entry["bbox"], 0.5, CATEGORY_IDS.index(entry["category_id"]))
        for entry in content["annotations"]
    ]
    assert evaluate(evaluator, objects) == pytest.approx([1, 1, 1, 1])
    cicadas = [detection for detection in objects if detection[3] == 2]
    assert evaluate(evaluator, cicadas) == pytest.approx([1 / 3, 1, 0, 0]), "the rare group's"

    # The last image shows nothing, and nothing says what it was searched for: so for everything.
    ghost = (4, [5, 5, 20, 20], 0.9, 2)
    assert evaluate(evaluator, [*objects, ghost])[1] == pytest.approx(0.75, abs=0.01)

    without = {key: value for key, value in evaluator.items() if key != "class_freq"}
    assert evaluate(without, objects) == pytest.approx([1, -1, -1, -1])


def test_the_second_command_trains_what_the_first_has_written():
    second = shlex.split(COMMANDS[1])
    assert second == ["bash", "tools/dist_train.sh", "my_config.py", "1"]
    assert len(COMMANDS) == 2


#: The page's model and pictures would take minutes; the rest stays as it was written.
SMALL = f"""\
_base_ = [
    "{CONFIGS.as_posix()}/_base_/models/mask_rcnn_r18_fpn_small.py",
    "{CONFIGS.as_posix()}/_base_/datasets/lvis_v0.5_instance.py",
    "{CONFIGS.as_posix()}/_base_/schedules/schedule_90k.py",
    "{CONFIGS.as_posix()}/_base_/default_runtime.py",
]
model = dict(roi_head=_base_.vocabulary)
model["roi_head"]["bbox_head"]["loss_cls"]["type"] = "DropLoss"
"""


@pytest.fixture
def trained(home, tmp_path, monkeypatch):
    """Two iterations of the page's config, small, and a validation."""
    monkeypatch.chdir(home)
    page_config(home)
    (home / "small_base.py").write_text(SMALL)
    text = (home / "my_config.py").read_text()
    text = re.sub(r"^_base_ = .*", '_base_ = "small_base.py"', text, flags=re.M)
    (home / "small_config.py").write_text(text)
    cfg = Config.fromfile(home / "small_config.py")
    cfg.train_cfg.update(max_iters=2, val_interval=2)
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.update(num_workers=0, persistent_workers=False)
        for step in loader.dataset.pipeline:
            if step.type in ("Resize", "RandomChoiceResize"):
                key = "scale" if step.type == "Resize" else "scales"
                step[key] = (WIDTH, HEIGHT) if key == "scale" else [(WIDTH, HEIGHT)]
    plain = {k: v for k, v in cfg.val_evaluator.items() if k != "class_freq"}
    cfg.val_evaluator = [cfg.val_evaluator, dict(plain, prefix="without")]
    cfg.update(work_dir=str(tmp_path / "run"), experiment_name=tmp_path.name, launcher="none")
    cfg.default_hooks.logger.interval = 1
    runner = Runner.from_cfg(cfg)
    runner.train()
    scalars = runner.message_hub.log_scalars
    metrics = {k[len("val/") :]: v.current() for k, v in scalars.items() if k.startswith("val/")}
    losses = {k[len("train/") :]: v.data[0] for k, v in scalars.items() if "/loss" in k}
    return SimpleNamespace(cfg=cfg, runner=runner, metrics=metrics, losses=losses)


def test_it_trains_validates_and_tests(trained):
    runner = trained.runner
    assert runner.iter == 2
    for name in ("loss", "loss_cls", "loss_bbox", "loss_mask"):
        values = trained.losses[name]
        assert len(values) == 2 and np.isfinite(values).all() and (values > 0).all(), name
    assert runner.model.roi_head.bbox_head.loss_cls.tail.tolist() == [False, True, True]
    for kind in ("bbox", "segm"):
        of_groups, without = (
            [trained.metrics[f"{prefix}/{kind}_{key}"] for key in ("AP", "APr", "APc", "APf")]
            for prefix in ("lvis", "without")
        )
        assert all(0 <= value <= 1 for value in of_groups), "there are groups, from class_freq"
        assert 0 <= without[0] == of_groups[0]
        assert without[1:] == [-1, -1, -1]

    cfg = copy.deepcopy(trained.cfg)
    cfg.update(load_from=str(Path(cfg.work_dir) / "iter_2.pth"), experiment_name="the test")
    tested = Runner.from_cfg(cfg).test()
    assert tested["lvis/segm_AP"] == trained.metrics["lvis/segm_AP"]

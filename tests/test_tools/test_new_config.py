"""tools/misc/new_config.py: from two annotation files to a config that trains."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mmdet.registry import DATASETS, METRICS, MODELS
from mmengine.config import Config
from mmengine.registry import DefaultScope
from scripts import load_script

from mmdet_droploss.analysis.proposals import propose_schedule, propose_tail, threshold
from mmdet_droploss.annotations import ClassFrequency

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("ant", "bee", "cicada")
#: Training images of each category.
IMAGES_WITH = (120, 6, 2)


@pytest.fixture(scope="module")
def tool():
    return load_script("tools/misc/new_config.py")


@pytest.fixture(autouse=True)
def _surroundings(tmp_path, monkeypatch):
    monkeypatch.setenv("MMDET_DROPLOSS_CACHE", str(tmp_path / "cache"))
    with DefaultScope.overwrite_default_scope("mmdet"):
        yield


def write_set(folder, name, num_images, **changes):
    """A COCO-format file and its pictures: category c is in the first IMAGES_WITH[c] images."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for index in range(num_images):
        file_name = f"{name}_{index}.png"
        cv2.imwrite(str(folder / "images" / file_name), np.full((36, 48, 3), index, np.uint8))
        images.append(dict(id=index + 1, file_name=file_name, width=48, height=36))
        for category, count in enumerate(IMAGES_WITH):
            if index < count:
                box = [1, 1, 8, 8]
                polygon = [1, 1, 9, 1, 9, 9, 1, 9]
                annotations.append(
                    dict(
                        id=len(annotations) + 1,
                        image_id=index + 1,
                        category_id=category + 1,
                        bbox=box,
                        area=64,
                        segmentation=[polygon],
                        iscrowd=0,
                    )
                )
    categories = [dict(id=i + 1, name=n) for i, n in enumerate(NAMES)]
    content = dict(images=images, annotations=annotations, categories=categories) | changes
    (folder / f"{name}.json").write_text(json.dumps(content))


@pytest.fixture
def home(tmp_path, monkeypatch):
    write_set(tmp_path / "data", "train", 120)
    write_set(tmp_path / "data", "val", 3)
    monkeypatch.chdir(tmp_path)
    return tmp_path


ARGUMENTS = ["data/train.json", "data/val.json", "--images", "data/images", "--gpus", "2"]


def test_the_config_is_what_was_promised(tool, home, capsys):
    tool.main(ARGUMENTS)
    said = capsys.readouterr().out
    assert "bash tools/dist_train.sh my_config.py 2\n" in said
    assert "at most 100 images: 2 of 3 categories" in said
    text = Path("my_config.py").read_text()
    assert "lambda_" not in text, "LVIS's own threshold is the default"
    assert len(text.splitlines()) < 45 and max(map(len, text.splitlines())) <= 100

    cfg = Config.fromfile("my_config.py")
    train, val = (
        DATASETS.build(loader.dataset) for loader in (cfg.train_dataloader, cfg.val_dataloader)
    )
    assert train.metainfo["classes"] == val.metainfo["classes"] == NAMES
    assert (len(train), len(val)) == (120, 3)
    assert Path(train.get_data_info(0)["img_path"]).is_file()
    head = MODELS.build(cfg.model.roi_head.bbox_head)
    assert (type(head.loss_cls).__name__, head.fc_cls.out_features) == ("DropLoss", 3)
    assert head.loss_cls.tail.tolist() == [False, True, True]
    metric = METRICS.build(cfg.test_evaluator)
    assert [c["frequency"] for c in metric.ground_truth.categories] == ["f", "r", "r"]
    # 4 images an iteration; no image more than 100 times.
    assert cfg.train_cfg.max_iters == 3000
    assert [s["end"] for s in cfg.param_scheduler] == [300, 3000]
    assert cfg.param_scheduler[1].milestones == [2000, 2667]
    assert cfg.default_hooks.checkpoint.interval == cfg.train_cfg.val_interval == 600


@pytest.mark.parametrize(
    "base, loss",
    [
        ("softmax/mask_rcnn_r50_fpn_softmax_lvis.py", "CrossEntropyLoss"),
        ("seesaw/mask_rcnn_r50_fpn_seesaw_lvis_v1.py", "SeesawLoss"),
        ("eql/mask_rcnn_r50_fpn_eql_rfs_lvis.py", "EQL"),
        ("droploss/cascade_mask_rcnn_r50_fpn_rfs_lvis_v1.py", "DropLoss"),
        ("droploss/mask_rcnn_r50_fpn_1x_lvis_v1.py", "DropLoss"),
        ("mini_lvis/mask_rcnn_r18_fpn_sigmoid_mini_lvis.py", "SigmoidBCELoss"),
    ],
)
def test_any_base_of_the_package(tool, home, base, loss):
    tool.main([*ARGUMENTS, "--base", base, "--out", "of_base.py"])
    cfg = Config.fromfile("of_base.py")
    roi_head = MODELS.build(cfg.model.roi_head)
    heads = roi_head.bbox_head if "cascade" in base else [roi_head.bbox_head]
    for head in heads:
        assert (type(head.loss_cls).__name__, head.num_classes) == (loss, 3)
        if loss in ("EQL", "DropLoss"):
            assert head.loss_cls.tail.tolist() == [False, True, True]
    train = DATASETS.build(cfg.train_dataloader.dataset)
    assert type(train).__name__ == "FastCocoDataset" and train.metainfo["classes"] == NAMES
    if "_rfs_" in base:
        # The tail's: categories in at most 100 of 120 images.
        assert 100 / 120 < cfg.train_dataloader.sampler.threshold <= 101 / 120
    assert ("max_epochs" in cfg.train_cfg) == ("1x" in base)


def edit(path, change):
    content = json.loads(Path(path).read_text())
    change(content)
    Path(path).write_text(json.dumps(content))


def refusal(tool, capsys, *more):
    with pytest.raises(SystemExit) as caught:
        tool.main([*ARGUMENTS, *more])
    capsys.readouterr()
    assert not Path("my_config.py").exists()
    return caught.value.code


@pytest.mark.parametrize(
    "file, change, said",
    [
        ("train", lambda c: c["images"][3].update(width=36, height=48), "train_3.png.*swapped"),
        ("val", lambda c: c["images"][1].update(file_name="gone.png"), "gone.png.*no such file"),
        ("val", lambda c: c["categories"].reverse(), "number 0 .*'ant'.*'cicada'"),
        ("val", lambda c: c["categories"].pop(), "3 categories.*2.*'cicada'"),
        ("train", lambda c: [a.update(iscrowd=1) for a in c["annotations"]], "iscrowd"),
        ("train", lambda c: c["annotations"][5].update(segmentation=[]), "segmentation"),
        ("val", lambda c: c["annotations"][0].update(segmentation=None), "segmentation"),
        ("train", lambda c: c["images"][0].pop("file_name"), "file_name"),
        ("val", lambda c: c.update(images=[], annotations=[]), "images|no annotation"),
        ("train", lambda c: c["annotations"][1].update(id=1), "occur more than once"),
    ],
)
def test_what_training_would_refuse_is_refused(tool, home, capsys, file, change, said):
    edit(f"data/{file}.json", change)
    message = refusal(tool, capsys)
    assert message.startswith("new_config.py: error: ")
    assert re.search(said, message, re.DOTALL), message


def test_nothing_is_overwritten_unasked(tool, home):
    Path("my_config.py").write_text("mine")
    with pytest.raises(SystemExit, match="my_config.py exists; --overwrite replaces it"):
        tool.main(ARGUMENTS)
    assert Path("my_config.py").read_text() == "mine"
    tool.main([*ARGUMENTS, "--overwrite"])
    assert Config.fromfile("my_config.py").num_classes == 3


def test_pictures_can_be_skipped(tool, home):
    edit("data/train.json", lambda c: c["images"][3].update(file_name="gone.png"))
    tool.main([*ARGUMENTS, "--skip-pictures"])
    assert Path("my_config.py").is_file()


def test_a_misspelt_base(tool, home, capsys):
    message = refusal(tool, capsys, "--base", "droploss/mask_rcnn_r50_fpn_lvsi.py")
    assert "did you mean droploss/mask_rcnn_r50_fpn_lvis.py" in message


def test_lvis_v1_files_keep_their_groups_and_urls(tool, home, capsys):
    for name in ("train", "val"):

        def change(content):
            for image in content["images"]:
                file_name = image.pop("file_name")
                image["coco_url"] = f"http://images.cocodataset.org/images/{file_name}"
                image["neg_category_ids"] = image["not_exhaustive_category_ids"] = []
            for category, letter in zip(content["categories"], "fcr", strict=True):
                category["frequency"] = letter

        edit(f"data/{name}.json", change)
    tool.main([*ARGUMENTS[:3], "data", "--gpus", "1"])
    cfg = Config.fromfile("my_config.py")
    assert cfg.train_dataloader.dataset.type == "FastLVISV1Dataset"
    assert "class_freq" not in cfg.val_evaluator
    metric = METRICS.build(cfg.val_evaluator)
    assert [c["frequency"] for c in metric.ground_truth.categories] == ["f", "c", "r"]
    # The letter of the second category is not that of its six training images.
    text = Path("my_config.py").read_text()
    for where in (capsys.readouterr().out, re.sub(r"\n# ", " ", text)):
        assert "for 1 of 3 categories" in where and "'c' there and has 6 training images" in where
    # LVIS's names are not those of these categories, and the run that starts is told so.
    for split in ("train", "val"):
        dataset = DATASETS.build(cfg[f"{split}_dataloader"].dataset)
        assert dataset.metainfo["classes"] == dataset.category_names


def test_many_names_are_packed_into_lines(tool):
    names = [f"category number {i}" + " with 'quotes', \"both\"" * (i % 3) for i in range(300)]
    text = tool.pack(names)
    assert list(eval(f"({text})")) == names
    assert 50 < len(text.splitlines()) < 290
    assert max(map(len, text.splitlines())) <= 100


def test_lvis_own_names_are_not_repeated(tool):
    names = DATASETS.get("FastLVISV1Dataset").METAINFO["classes"]
    file = SimpleNamespace(
        name="lvis",
        category_names=tuple(names),
        categories=[dict(id=i, name=name) for i, name in enumerate(names)],
    )
    assert tool.names_to_write("FastLVISV1Dataset", file) == ()
    file.category_names, file.categories = file.category_names[1:], file.categories[1:]
    assert tool.names_to_write("FastLVISV1Dataset", file) == tuple(names[1:])
    assert tool.names_to_write("FastCocoDataset", file) == ()


# ---------------------------------------------------------------- proposals


def frequency_of(image_count, instances_each=1, num_images=1000):
    counts = np.asarray(image_count)
    return ClassFrequency(counts, num_images, counts * instances_each)


def test_lvis_own_threshold_where_it_fits():
    tail = propose_tail(frequency_of([5, 50, 900, 800]))
    assert (tail.most_images, tail.lambda_) == (100, None)


def test_a_small_set_gets_a_threshold_with_a_small_tail():
    tail = propose_tail(frequency_of([2, 3, 60, 90, 95]))  # nobody has more than 100
    assert tail.most_images == 3
    assert 3 / 1000 < tail.lambda_ <= 4 / 1000
    assert frequency_of([2, 3, 60, 90, 95]).tail(tail.lambda_).tolist() == [1, 1, 0, 0, 0]


def test_a_large_set_gets_one_as_well():
    tail = propose_tail(frequency_of([200, 300, 90000, 80000], num_images=100000))
    assert tail.most_images == 300


@pytest.mark.parametrize("counts", [[50, 50, 50], [7], [500, 400]])
def test_no_long_tail_is_said(counts):
    assert "no long tail" in propose_tail(frequency_of(counts)).reason


@pytest.mark.parametrize(
    "counts",
    [[5, 50, 900, 800], [2, 3, 60, 90, 95], [50, 50, 50], [500, 400], [900, 800, 150, 120]],
)
def test_a_category_that_is_never_shown_changes_no_proposal(counts):
    """Such as Roboflow's dummy category number 0."""
    assert propose_tail(frequency_of([0, *counts])) == propose_tail(frequency_of(counts))


@given(st.integers(1, 10**6), st.data())
def test_the_threshold_parts_exactly(num_images, data):
    most = data.draw(st.integers(0, num_images - 1))
    value = threshold(most, num_images)
    assert most / num_images < value <= (most + 1) / num_images


@given(st.integers(1, 200_000), st.sampled_from([1, 2, 8, 16, 64]))
def test_the_schedule_is_between_its_bounds(num_images, batch):
    base = Config.fromfile(ROOT / "configs" / "_base_" / "schedules" / "schedule_90k.py")
    base.train_cfg.max_iters = 90000
    schedule = propose_schedule(num_images, batch, base)
    shown = schedule.max_iters * batch / num_images
    rounding = 1 + 0.06 + batch / num_images
    assert shown <= max(100, 25) * rounding + batch
    if num_images * 100 > 80_000 and schedule.max_iters > 100:
        assert shown >= 25 / rounding
    assert 0 < schedule.milestones[0] <= schedule.milestones[1] <= schedule.max_iters
    assert 1 <= schedule.warmup <= 1000


def test_the_paper_s_schedule_comes_out_for_the_paper_s_data():
    base = Config.fromfile(ROOT / "configs" / "_base_" / "schedules" / "schedule_90k.py")
    schedule = propose_schedule(56740, 16, base)
    assert abs(schedule.max_iters - 90000) <= 1500
    assert schedule.warmup == 1000

"""The comparison of all lists of categories at the start of a run, in runs of a toy model."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from mmdet.datasets import LVISV05Dataset, LVISV1Dataset
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.runner import Runner
from processes import in_processes
from torch import nn

import mmdet_droploss
from mmdet_droploss.annotations.names import Categories, difference, repeated_name
from mmdet_droploss.datasets import FastCocoDataset
from mmdet_droploss.engine import CategoryCheckHook
from mmdet_droploss.models.losses import DropLoss

NAMES = ("ant", "bee", "cicada")


def write(folder, name, names=NAMES, ids=None, num_images=3):
    ids = ids or range(1, len(names) + 1)
    image = {"width": 20, "height": 10}
    content = {
        "images": [{"id": i, "file_name": f"{i}.png", **image} for i in range(num_images)],
        "annotations": [
            {
                "id": index,
                "image_id": index % num_images,
                "category_id": category,
                "bbox": [1, 1, 5, 5],
                "area": 25,
                "segmentation": [[1, 1, 6, 1, 6, 6]],
            }
            for index, category in enumerate(list(ids) * num_images)
        ],
        "categories": [
            {"id": i, **({} if name is None else {"name": name})}
            for i, name in zip(ids, names, strict=True)
        ],
    }
    path = folder / f"{name}.json"
    path.write_text(json.dumps(content))
    return str(path)


class Toy(BaseModel):
    """Counts the batches that it is trained on; its loss holds class_freq."""

    def __init__(self, num_classes=3, class_freq=None, lambda_=None):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.bbox_head = nn.Module()
        self.bbox_head.num_classes = num_classes
        self.bbox_head.loss_cls = DropLoss(num_classes, class_freq, lambda_=lambda_)
        self.seen = 0

    def forward(self, *args, mode="loss", **kwargs):
        if mode != "loss":
            return []
        self.seen += 1
        return {"loss": self.weight.sum()}


def data_set(path, kind="FastCocoDataset", names=NAMES, **more):
    config = dict(
        type=f"mmdet.{kind}", ann_file=path, data_prefix=dict(img=""), pipeline=[], **more
    )
    if names is not None:
        config["metainfo"] = dict(classes=names)
    return config


def loader(config, **more):
    sampler = dict(type="DefaultSampler", shuffle=False)
    return dict(batch_size=1, num_workers=0, dataset=config, sampler=sampler, **more)


def run(tmp_path, train, val=None, evaluator=None, model=None, cfg=None, launcher="none"):
    """Train for an iteration; returns the number of batches seen."""
    runner = build(tmp_path, train, val, evaluator, model, cfg, launcher)
    model = getattr(runner.model, "module", runner.model)
    try:
        runner.train()
    except ValueError:
        assert model.seen == 0, "before the first iteration"
        raise
    return model.seen


def build(tmp_path, train, val=None, evaluator=None, model=None, cfg=None, launcher="none"):
    model = model or Toy()
    options = {}
    if val is not None:
        options = dict(
            val_dataloader=loader(val),
            val_cfg=dict(),
            val_evaluator=dict(type="mmdet.FastLVISMetric", metric="bbox", **evaluator),
        )
    return Runner(
        model,
        work_dir=str(tmp_path / "work"),
        train_dataloader=loader(train),
        train_cfg=dict(by_epoch=False, max_iters=1, val_begin=9),
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.1)),
        custom_hooks=[CategoryCheckHook()],
        default_hooks=dict(logger=None, checkpoint=None),
        default_scope="mmdet",
        experiment_name=tmp_path.name,
        cfg=Config(cfg or {}),
        launcher=launcher,
        **options,
    )


def log_of(tmp_path):
    """What the runs wrote into their log files."""
    return "".join(file.read_text() for file in (tmp_path / "work").rglob("*.log"))


def test_what_agrees_is_trained_on(tmp_path):
    train, val = write(tmp_path, "train"), write(tmp_path, "val", ids=(9, 4, 5))
    model = Toy(class_freq=train)
    assert run(tmp_path, data_set(train), data_set(val), dict(ann_file=val), model) == 1


def test_an_evaluator_of_other_images_is_refused_before_the_training(tmp_path):
    train, val = write(tmp_path, "train"), write(tmp_path, "val")
    content = json.loads(Path(val).read_text())
    for image in content["images"]:
        image["file_name"] = f"other_{image['file_name']}"
    other = tmp_path / "other.json"
    other.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="is tested as image id .*other.json' is 'other_"):
        run(tmp_path, data_set(train), data_set(val), dict(ann_file=str(other)))
    del content["images"][0]
    other.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="is tested, which the evaluator's .*other.json"):
        run(tmp_path, data_set(train), data_set(val), dict(ann_file=str(other)))


class Renamed(FastCocoDataset):
    """Its pictures are cleaned copies."""

    def parse_data_info(self, raw_data_info):
        info = super().parse_data_info(raw_data_info)
        return {**info, "img_path": info["img_path"].replace(".png", "_clean.png")}


def test_pictures_may_have_other_names_where_the_evaluator_has_the_same_file(tmp_path):
    train, val = write(tmp_path, "train"), write(tmp_path, "val")
    renamed = {**data_set(val), "type": Renamed}
    evaluator = dict(ann_file=val)
    runner = build(tmp_path, data_set(train), renamed, evaluator)
    runner.train()
    (metric,) = runner.val_loop.evaluator.metrics
    prediction = dict(bboxes=torch.zeros(0, 4), scores=torch.zeros(0), labels=torch.zeros(0))
    sample = dict(img_id=0, img_path="0_clean.png", pred_instances=prediction)
    metric.process({}, [sample])
    other = tmp_path / "other.json"
    other.write_text(Path(val).read_text().replace("[1, 1, 5, 5]", "[2, 1, 5, 5]"))
    evaluator = dict(ann_file=str(other))
    with pytest.raises(ValueError, match=r"0_clean.png' is tested.*check_pictures=False\) lets it"):
        run(tmp_path, data_set(train), renamed, evaluator)
    run(tmp_path, data_set(train), renamed, {**evaluator, "check_pictures": False})


def test_an_evaluator_of_another_file_is_told(tmp_path):
    """Numbered pictures of two cameras have the same names, and perhaps the same folder."""
    train, val = write(tmp_path, "train"), write(tmp_path, "val")
    copy = tmp_path / "copy.json"
    copy.write_bytes(Path(val).read_bytes())
    for same in (val, str(copy), os.path.relpath(val)):
        run(tmp_path, data_set(train), data_set(val), dict(ann_file=same))
    assert "is not the file of the data set" not in log_of(tmp_path)
    copy.write_text(Path(val).read_text().replace("[1, 1, 5, 5]", "[2, 1, 5, 5]"))
    run(tmp_path, data_set(train), data_set(val), dict(ann_file=str(copy)))
    assert "copy.json' is not the file of the data set that is tested" in log_of(tmp_path)


def test_mmdets_evaluator_of_several_data_sets_is_refused(tmp_path):
    train, val = write(tmp_path, "train"), write(tmp_path, "val")
    metric = dict(type="mmdet.FastLVISMetric", metric="bbox", ann_file=val)
    both = dict(type="MultiDatasetsEvaluator", metrics=[metric] * 2, dataset_prefixes=["a", "b"])
    two = dict(type="mmdet.ConcatDataset", datasets=[data_set(val), data_set(val)])
    runner = Runner(
        Toy(),
        work_dir=str(tmp_path / "work"),
        train_dataloader=loader(data_set(train)),
        train_cfg=dict(by_epoch=False, max_iters=1),
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.1)),
        val_dataloader=loader(two),
        val_cfg=dict(),
        val_evaluator=both,
        custom_hooks=[CategoryCheckHook()],
        default_scope="mmdet",
        experiment_name=tmp_path.name,
    )
    with pytest.raises(ValueError, match="does not work in MultiDatasetsEvaluator.*one after"):
        runner.train()


def test_check_classes_of_the_config_holds_in_the_metric_as_well(tmp_path):
    names = ("ant", "wasp", "cicada")
    train, val = write(tmp_path, "train"), write(tmp_path, "val")
    options = dict(cfg=dict(check_classes=False))
    model = Toy()
    sets = data_set(train), data_set(val, names=names)
    assert run(tmp_path, *sets, dict(ann_file=val), model, **options) == 1
    assert "'wasp'" in log_of(tmp_path)


@pytest.mark.parametrize(
    "names, message",
    [
        (("bee", "ant", "cicada"), "number 0 .*'ant' in .*train.*, but 'bee' in .*another order"),
        (("ant", "cicada"), "number 1 .*'bee' in .*'cicada' in .*3 categories"),
        (("ant", "bee"), "has 3 categories, but .* has 2: .*number 2 .*'cicada'"),
        (("ant", "Bee", "cicada"), "'bee' .*'Bee' .*only in upper and lower case"),
        (("ant", "bee ", "cicada"), "'bee' .*'bee ' .*only in blanks"),
        (("\ufeffant", "bee", "cicada"), "only in a byte order mark"),
        (("ant", "wasp", "cicada"), "'bee' in .*'wasp' in"),
    ],
)
def test_another_validation_file_is_refused_whatever_the_loss(tmp_path, names, message):
    train, val = write(tmp_path, "train"), write(tmp_path, "val", names)
    with pytest.raises(ValueError, match=message) as caught:
        run(tmp_path, data_set(train), data_set(val, names=names), dict(ann_file=val))
    assert "check_classes=False" in str(caught.value) and val in str(caught.value)
    lenient = dict(cfg=dict(check_classes=False))
    assert run(tmp_path, data_set(train), data_set(val), dict(ann_file=val), **lenient) == 1
    assert "check_classes=False lets the run go on" in log_of(tmp_path)


def test_a_line_in_the_config_makes_it_a_warning(tmp_path):
    train = write(tmp_path, "train")
    other = data_set(train, names=NAMES[::-1])
    with pytest.raises(ValueError, match="'cicada' in metainfo"):
        run(tmp_path, other)
    assert run(tmp_path, other, cfg=dict(check_classes=False)) == 1


@pytest.mark.parametrize("small", [False, True])
def test_names_behind_class_freq_are_compared(tmp_path, small):
    train, other = write(tmp_path, "train"), write(tmp_path, "other", NAMES[::-1])
    if small:
        frequency = mmdet_droploss.annotations.load_class_frequency(other)
        other = tmp_path / "small.json"
        other.write_text(frequency.to_json())
    with pytest.raises(ValueError, match="'ant' in .*'cicada' in class_freq=.* of DropLoss"):
        run(tmp_path, data_set(train), model=Toy(class_freq=str(other)))


def test_each_part_of_a_wrapped_data_set_is_compared(tmp_path):
    train, other = write(tmp_path, "train"), write(tmp_path, "other", NAMES[::-1])
    for inner in (other, train):
        parts = [data_set(train), data_set(inner)]
        both = dict(type="ConcatDataset", datasets=parts, ignore_keys=["classes"])
        wrapped = dict(type="RepeatDataset", times=2, dataset=both)
        if inner == train:
            assert run(tmp_path, wrapped) == 1
        else:
            with pytest.raises(ValueError, match="other.json"):
                run(tmp_path, wrapped)


@pytest.mark.parametrize(
    "names, message",
    [
        (("ant", "cicada"), None),
        (("cicada", "ant"), "'ant' in .*'cicada' in metainfo"),
        (("ant", "cikada"), "has 1 categories, but metainfo.* has 2"),
    ],
)
def test_mmdets_data_set_takes_the_files_order(tmp_path, names, message):
    """On a subset, its labels follow the file, whatever the order of ``classes``."""
    train = write(tmp_path, "train")
    config = data_set(train, "CocoDataset", names)
    if message is None:
        assert run(tmp_path, config, model=Toy(2)) == 1
    else:
        with pytest.raises(ValueError, match=message):
            run(tmp_path, config, model=Toy(2))


def test_num_classes_of_a_head_is_compared(tmp_path):
    with pytest.raises(ValueError, match="num_classes of model.bbox_head is 4"):
        run(tmp_path, data_set(write(tmp_path, "train")), model=Toy(4))


def test_two_categories_of_one_name_are_refused(tmp_path):
    names = ("ant", "bee", "ant")
    with pytest.raises(ValueError, match="two categories with the name 'ant': number 0 and num"):
        run(tmp_path, data_set(write(tmp_path, "train", names), names=names))


def test_files_without_names_are_compared_by_what_they_have(tmp_path):
    nameless = write(tmp_path, "train", (None,) * 3)
    assert run(tmp_path, data_set(nameless)) == 1
    with pytest.raises(ValueError, match="has 3 categories, but metainfo.* has 2"):
        run(tmp_path, data_set(nameless, names=NAMES[:2]))


def test_another_tail_than_the_images_show_is_said(tmp_path):
    train = write(tmp_path, "train", num_images=8)
    run(tmp_path, data_set(train), model=Toy(class_freq=train))
    assert "class_freq says" not in log_of(tmp_path)
    assert run(tmp_path, data_set(train), model=Toy(class_freq=[500, 2, 2])) == 1
    assert "1 of 3 categories" in log_of(tmp_path)
    assert "first is 'ant': 8 images are trained on, class_freq says 500" in log_of(tmp_path)


def test_other_groups_than_the_images_show_are_said(tmp_path):
    train, val = write(tmp_path, "train", num_images=13), write(tmp_path, "val")
    data = data_set(train), data_set(val)
    run(tmp_path, *data, dict(ann_file=val))  # which has no groups
    run(tmp_path, *data, dict(ann_file=val, class_freq=train))
    assert "in another group" not in log_of(tmp_path)
    run(tmp_path, *data, dict(ann_file=val, class_freq=val))
    assert "3 of 3 categories are in another group for APr, APc and APf" in log_of(tmp_path)
    assert "'ant': 'r', but 13 images are trained on, which is 'c'" in log_of(tmp_path)


# ---------------------------------------------------------------- several processes


def _run(folder, train, val):
    wrapper = dict(model_wrapper_cfg=dict(type="CPUDistributedDataParallel"))
    data = data_set(train), data_set(val), dict(ann_file=val)
    try:
        said = f"batches: {run(folder, *data, cfg=wrapper, launcher='pytorch')}"
    except ValueError as error:
        said = str(error)
    Path(f"{dist.get_rank()}.txt").write_text(said)


@pytest.mark.parametrize(
    "names, words", [(NAMES, "batches: 1"), (NAMES[::-1], "'ant' in ")], ids=["agree", "differ"]
)
def test_both_of_two_processes_end(tmp_path, names, words):
    """With the error or after the training; none waits for the other."""
    train, val = write(tmp_path, "train"), write(tmp_path, "val", names)
    in_processes(2, tmp_path, _run, tmp_path, train, val)
    said = [(tmp_path / f"{rank}.txt").read_text() for rank in range(2)]
    assert said[0] == said[1] and words in said[0]


# ---------------------------------------------------------------- LVIS


@pytest.mark.parametrize(
    "cls, version, misspelt", [(LVISV05Dataset, "v0.5", 669), (LVISV1Dataset, "v1", 655)]
)
def test_lvis_passes(cls, version, misspelt):
    """Its files misspell a name that MMDetection spells right."""
    classes = list(cls.METAINFO["classes"])
    ids = tuple(range(1, len(classes) + 1))
    assert classes[misspelt - 1] == "speaker_(stereo_equipment)"
    of_file = [*classes]
    of_file[misspelt - 1] = "speaker_(stero_equipment)"
    file = Categories("file", len(ids), tuple(of_file), ids)
    bundled = mmdet_droploss.annotations.load_class_frequency(f"lvis_{version}")
    counted = Categories("class_freq", bundled.num_classes, bundled.classes, bundled.category_ids)
    assert difference(file, Categories("metainfo", len(ids), tuple(classes))) is None
    assert difference(file, counted) is None
    assert repeated_name(file) is None
    turned = Categories("file", len(ids), tuple(of_file), (2, 1, *ids[2:]))
    assert "has the id 2 in file, but 1 in class_freq" in difference(turned, counted)


# ---------------------------------------------------------------- checkpoints


def test_a_checkpoint_of_other_names_is_not_tested():
    hook = CategoryCheckHook()
    hook._reference = Categories("ann_file='test.json'", 2, ("ant", "bee"))
    runner = SimpleNamespace(_train_loop=None, cfg=Config(dict()))
    for names in (("ant", "bee"), ["ant", "bee"]):
        hook.after_load_checkpoint(runner, dict(meta=dict(dataset_meta=dict(classes=names))))
    hook.after_load_checkpoint(runner, dict(state_dict={}))
    with pytest.raises(ValueError, match="'ant' in ann_file='test.json', but 'bee' in the checkp"):
        hook.after_load_checkpoint(
            runner, dict(meta=dict(dataset_meta=dict(classes=("bee", "ant"))))
        )

"""LVIS's test sets, as docs/train_on_lvis.md says: images with no annotations, through a Runner."""

from __future__ import annotations

import json
import re
import shutil

from mmengine.config import Config
from mmengine.runner import Runner
from small_run import CONFIG, ROOT, changes


def config_of_the_page(data, out):
    """The page's config block, on mini-LVIS and with a smaller model."""
    page = (ROOT / "docs" / "train_on_lvis.md").read_text("utf-8")
    (block,) = re.findall(r"^```python\n(_base_[^`]*format_only=True.*?)^```$", page, re.M | re.S)
    block = block.replace("configs/droploss/mask_rcnn_r50_fpn_lvis_v1.py", CONFIG.as_posix())
    block = block.replace("_base_.data_root", repr(f"{data.as_posix()}/"))
    block = block.replace("work_dirs/test_dev", out.as_posix())
    source = out.parent / "test_dev.py"
    source.write_text(block)
    cfg = Config.fromfile(source)
    smaller = changes(data, iterations=1)
    del smaller["test_evaluator.ann_file"]  # the page's
    cfg.merge_from_dict(smaller)
    cfg.work_dir = str(out.parent / "work")
    return cfg


def test_the_pages_config_writes_the_detections(mini_lvis_dir, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(mini_lvis_dir, data)
    content = json.loads((data / "annotations" / "lvis_v1_val.json").read_text())
    keep = ("id", "width", "height", "coco_url")
    images = [{key: image[key] for key in keep} for image in content["images"]]
    bare = {"images": images, "categories": content["categories"]}
    file = data / "annotations" / "lvis_v1_image_info_test_dev.json"
    file.write_text(json.dumps(bare))

    metrics = Runner.from_cfg(config_of_the_page(data, tmp_path / "test_dev")).test()
    assert metrics == {}
    image_ids, category_ids = ({entry["id"] for entry in entries} for entries in bare.values())
    for iou_type, shape in (("bbox", "bbox"), ("segm", "segmentation")):
        detections = json.loads((tmp_path / f"test_dev.{iou_type}.json").read_text())
        assert {d["image_id"] for d in detections} == image_ids
        assert {d["category_id"] for d in detections} <= category_ids
        assert all(set(d) == {"image_id", "category_id", "score", shape} for d in detections)

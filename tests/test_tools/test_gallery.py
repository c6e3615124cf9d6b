"""The pictures of reports and of Figure 4."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from made_up_runs import SIZE, write_config
from PIL import Image
from pycocotools import mask as mask_utils
from scripts import load_script

from mmdet_droploss.analysis.detections import Detections
from mmdet_droploss.analysis.gallery import Gallery, find_image
from mmdet_droploss.analysis.report import build_figures, compare
from mmdet_droploss.analysis.runs import InputError
from mmdet_droploss.annotations import load_class_frequency


def test_pictures_are_chosen_by_ground_truth_and_matches_are_marked(dataset):
    annotations = dataset / "annotations"
    frequency = load_class_frequency(str(annotations / "train.json"))
    source = Detections(annotations / "val.json", frequency, ["segm"])
    gallery = Gallery(source, frequency, dataset)
    assert [image["id"] for image in gallery.choose(3)] == [1, 2, 3]
    image = gallery.choose(1)[0]
    truth = gallery.truth(image)
    first = source.content["annotations"][0]
    rle = mask_utils.frPyObjects(first["segmentation"], SIZE, SIZE)[0]
    found = [
        dict(category_id=first["category_id"], score=score, segmentation=rle)
        for score in (0.5, 0.9, 0.1)
    ]
    shapes = gallery.predictions(found, truth, threshold=0.3)
    # The better one takes the ground truth; the second is a duplicate; the third scores too low.
    assert [(shape.text[-4:], shape.right) for shape in shapes] == [("0.90", True), ("0.50", False)]


def test_image_files_of_every_format(tmp_path):
    (tmp_path / "val2017").mkdir()
    expected = tmp_path / "val2017" / "000000000009.jpg"
    expected.touch()
    for image in (
        dict(coco_url="http://images.cocodataset.org/val2017/000000000009.jpg"),
        dict(file_name="COCO_val2014_000000000009.jpg"),
        dict(file_name="000000000009.jpg"),
        dict(file_name="val2017/000000000009.jpg"),
    ):
        assert find_image(image, tmp_path) == expected
    with pytest.raises(InputError, match="--img-root"):
        find_image(dict(file_name="000000000010.jpg"), tmp_path)


def test_pictures_are_looked_for_where_the_test_found_them(dataset, runs, tmp_path):
    """Beside the annotations there are none: data/train.json, data/val.json, data/images."""
    shutil.copytree(dataset / "val2017", tmp_path / "data" / "images" / "val2017")
    for name in ("val.json", "train.json"):
        shutil.copy(dataset / "annotations" / name, tmp_path / "data")
    run = tmp_path / "run"
    shutil.copytree(runs[0] / "bad1", run)
    files = tmp_path / "data" / "val.json", str(tmp_path / "data" / "train.json")
    arguments = [f"a={run}", f"b={runs[0] / 'good1'}"]
    with pytest.raises(InputError, match="does not exist; give the folder .* --img-root"):
        build_figures(compare(*files, arguments, 0), None, 1, 0.3)
    prefix = f"data_root={str(tmp_path / 'data')!r}, data_prefix=dict(img='images/')"
    loader = f"test_dataloader = dict(dataset=dict(type='ConcatDataset', dataset=dict({prefix})))"
    write_config(run, 71, more=loader)
    assert "pictures" in build_figures(compare(*files, arguments, 0), None, 1, 0.3)
    with pytest.raises(InputError, match="nowhere"):  # what is given counts alone
        build_figures(compare(*files, arguments, 0), tmp_path / "nowhere", 1, 0.3)


@pytest.mark.parametrize("orientation", [1, 3])
def test_pictures_are_turned_as_the_pipeline_turns_them(dataset, tmp_path, orientation):
    frequency = load_class_frequency(str(dataset / "annotations" / "train.json"))
    source = Detections(dataset / "annotations" / "val.json", frequency, ["segm"])
    pixels = np.zeros((SIZE, SIZE, 3), np.uint8)
    pixels[: SIZE // 2, : SIZE // 2] = [255, 0, 0]
    image = source.content["images"][0]
    file = tmp_path / image["coco_url"].partition("org/")[2]
    file.parent.mkdir()
    lies = Image.fromarray(pixels)
    exif = lies.getexif()
    exif[0x0112] = orientation  # 3: by 180 degrees
    lies.save(file, exif=exif, quality=95)
    seen = Gallery(source, frequency, tmp_path).pixels(image)
    corner = seen[2, 2] if orientation == 1 else seen[-3, -3]
    assert corner[0] > 200 and corner[2] < 50
    assert seen.mean() == pytest.approx(255 / 12, abs=3)


def test_a_picture_that_was_annotated_as_it_is_stored_is_shown_so(dataset, tmp_path):
    """With color_type='color_ignore_orientation' the pipeline loads it so."""
    frequency = load_class_frequency(str(dataset / "annotations" / "train.json"))
    source = Detections(dataset / "annotations" / "val.json", frequency, ["segm"])
    image = dict(id=1, file_name="lies.png", width=20, height=10)
    stored = Image.new("RGB", (20, 10), (0, 0, 255))
    exif = stored.getexif()
    exif[0x0112] = 6  # by 90 degrees
    stored.putpixel((0, 0), (255, 0, 0))
    stored.save(tmp_path / "lies.png", exif=exif)
    gallery = Gallery(source, frequency, tmp_path)
    pixels = gallery.pixels(image)
    assert pixels.shape[:2] == (10, 20) and tuple(pixels[0, 0]) == (255, 0, 0)
    turned = gallery.pixels({**image, "width": 10, "height": 20})
    assert turned.shape[:2] == (20, 10) and tuple(turned[0, -1]) == (255, 0, 0)
    with pytest.raises(InputError, match="has height and width"):
        gallery.pixels({**image, "height": 11})


def test_figure_4_has_two_methods_on_the_same_images(dataset, runs, tmp_path, capsys):
    program = load_script("tools/analysis_tools/tradeoff_figures.py")
    root, annotations = runs[0], dataset / "annotations"
    arguments = [f"--run=bad={root / 'bad1'}", f"--run=good={root / 'good1'}", "--images=1"]
    arguments += [f"--out={tmp_path}", f"--ann={annotations / 'val.json'}"]
    arguments += [f"--train-ann={annotations / 'train.json'}", "--pictures", "good"]
    assert program.main([*arguments, "bad"]) == 0
    assert (tmp_path / "figure4.png").read_bytes().startswith(b"\x89PNG")
    text = (tmp_path / "figure4.svg").read_text()
    assert text.index("ground truth") < text.index("good: ") < text.index("bad: ")
    (tmp_path / "figure3.svg").unlink()
    capsys.readouterr()
    assert program.main([*arguments, "nobody"]) == 1
    assert "--pictures 'nobody' is none of bad, good" in capsys.readouterr().err
    assert (tmp_path / "figure3.svg").is_file()

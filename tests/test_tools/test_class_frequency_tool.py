"""tools/analysis_tools/class_frequency.py on a small data set and on the bundled figures."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from scripts import load_script

from mmdet_droploss.annotations import load_class_frequency


@pytest.fixture
def run(capsys):
    """Runs the script in this process."""
    module = load_script("tools/analysis_tools/class_frequency.py")

    def main(*arguments: object) -> str:
        module.main([str(argument) for argument in arguments])
        return capsys.readouterr().out

    return main


@pytest.fixture
def annotations(tmp_path: Path) -> Path:
    """200 images; categories in 150, 40, 2 and 0 of them. One image has an object twice."""
    counts = {3: 150, 7: 40, 1: 2}
    pairs = [(image, category) for category, n in counts.items() for image in range(n)] + [(0, 3)]
    content = dict(
        images=[dict(id=k, width=9, height=8, file_name=f"{k}.png") for k in range(200)],
        annotations=[
            dict(id=k, image_id=i, category_id=c, bbox=[1, 2, 3, 4], area=12)
            for k, (i, c) in enumerate(pairs)
        ],
        categories=[dict(id=c, name=f"name{c}") for c in (3, 7, 1, 9)],
    )
    file = tmp_path / "train.json"
    file.write_text(json.dumps(content))
    return file


def test_report_plot_and_small_json(run, annotations: Path, tmp_path: Path):
    out, plot = tmp_path / "new" / "small.json", tmp_path / "new" / "tail.png"
    output = run(annotations, "--lambda", 0.5, "--top", 2, "--out", out, "--plot", plot)
    text = " ".join(output.split())
    assert "4 categories, 150 annotated images, 193 instances" in text
    assert "in no image at all, counted as rare: 1" in text
    assert "| rare | at most 10 | 2 | 50.0% | 2 | 1.0% |" in text
    assert "| common | 11-100 | 1 | 25.0% | 40 | 20.7% |" in text
    assert "| frequent | over 100 | 1 | 25.0% | 151 | 78.2% |" in text
    assert "default, at most 100 images: 3 of 4 categories (2 rare, 1 common, 0 frequent)" in text
    assert "lambda_=0.5, at most 74 images: 3 of 4 categories" in text
    assert "| name9 | 0 | name3 | 150 |" in text
    written, read = load_class_frequency(out), load_class_frequency(annotations)
    assert np.array_equal(written.image_count, read.image_count)
    assert np.array_equal(written.instance_count, read.instance_count)
    assert (written.num_images, written.classes) == (read.num_images, read.classes)
    with Image.open(plot) as image:
        assert image.format == "PNG"
        assert len(np.unique(np.asarray(image).reshape(-1, len(image.mode)), axis=0)) > 9


def test_bundled_figures_have_names_and_the_papers_tail(run):
    output = run("lvis_v1", "--lambda", 0.00177, "--top", 1)
    assert "798 of 1203 categories (337 rare, 461 common, 0 frequent)" in output
    assert "876 of 1203 categories (337 rare, 461 common, 78 frequent)" in output
    assert "| baboon" in output  # the first category that is in a single image


def test_pictures_are_compared_with_the_file(run, annotations: Path, tmp_path: Path, capsys):
    """As OpenCV loads them: one is turned by EXIF, one is missing, one is no picture."""
    content = json.loads(annotations.read_text())
    content["images"] = content["images"][:6]
    annotations.write_text(json.dumps(content))
    folder = tmp_path / "pictures"
    folder.mkdir()
    for k in range(6):
        picture = Image.new("RGB", (8, 9) if k in (1, 2) else (9, 8))
        exif = Image.Exif()
        exif[0x0112] = {2: 6, 3: 3, 4: 6}.get(k, 1)  # 6 turns by a quarter, 3 by a half
        picture.save(folder / f"{k}.png", exif=exif)
    assert cv2.imread(str(folder / "2.png")).shape[:2] == (8, 9), "what the check must agree with"
    assert cv2.imread(str(folder / "4.png")).shape[:2] == (9, 8)
    with pytest.raises(SystemExit) as caught:
        run(annotations, "--top", 0, "--check-images", folder)
    assert caught.value.code == 1
    output = capsys.readouterr().out
    assert "6 images, 2 with a picture that is not as it should be" in output
    assert "1.png: it is 8 wide and 9 high, but the annotation file says width 9 and" in output
    assert "4.png: it is 8 wide and 9 high" in output and "EXIF turns it" in output
    (folder / "0.png").unlink()
    (folder / "5.png").write_bytes(b"no picture")
    with pytest.raises(SystemExit):
        run(annotations, "--top", 0, "--check-images", folder)
    output = capsys.readouterr().out
    assert "6 images, 4 with" in output and "0.png: there is no such file" in output
    assert "5.png: it cannot be read" in output


def test_pictures_that_are_as_the_file_says(run, annotations: Path, tmp_path: Path):
    for k in range(200):
        Image.new("L", (9, 8)).save(tmp_path / f"{k}.png")
    with pytest.raises(SystemExit) as caught:
        run(annotations, "--top", 0, "--check-images", tmp_path)
    assert caught.value.code == 0


@pytest.mark.parametrize(("value", "num_images"), [(0.07, 100), (0.29, 100), (0.1, 30), (1, 7)])
def test_the_most_images_are_those_of_the_rule(run, tmp_path: Path, value: float, num_images: int):
    counts = list(range(1, num_images + 1))
    file = tmp_path / "counts.json"
    file.write_text(json.dumps(dict(num_images=num_images, image_count=counts)))
    most = max(count for count in counts if count / num_images < value)
    output = run(file, "--lambda", value, "--top", 0)
    assert f"at most {most} images: {most} of {num_images} categories" in output


def test_a_folder_cannot_be_written(run, annotations: Path, tmp_path: Path):
    with pytest.raises(SystemExit, match="class_frequency.py: error: .*directory"):
        run(annotations, "--out", tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no_such_set"], "neither a bundled data set"),
        (["missing/file.json"], "does not exist"),
        (["lvis_v1", "--lambda", "1.5"], "must lie in"),
        (["lvis_v1", "--check-images", "."], "needs an annotation file"),
    ],
)
def test_errors_are_one_sentence(run, arguments: list[str], message: str):
    with pytest.raises(SystemExit, match=message):
        run(*arguments)


@pytest.mark.parametrize("option", ["--out", "--plot"])
def test_the_file_that_is_read_is_not_written_over(run, annotations, option):
    before = annotations.read_bytes()
    other_name = annotations.parent / ".." / annotations.parent.name / annotations.name
    with pytest.raises(SystemExit, match="is the file that is read, and would be lost"):
        run(annotations, option, other_name)
    assert annotations.read_bytes() == before

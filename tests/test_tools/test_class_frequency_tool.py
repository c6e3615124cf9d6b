"""tools/analysis_tools/class_frequency.py on a small data set and on the bundled figures."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmdet_droploss.datasets import load_class_frequency

SCRIPT = Path(__file__).resolve().parents[2] / "tools" / "analysis_tools" / "class_frequency.py"


@pytest.fixture
def run(capsys):
    """Runs the script in this process: another one would spend seconds on imports."""
    spec = importlib.util.spec_from_file_location("class_frequency_tool", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

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
        images=[dict(id=k) for k in range(200)],
        annotations=[dict(id=k, image_id=i, category_id=c) for k, (i, c) in enumerate(pairs)],
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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no_such_set"], "neither a bundled data set"),
        (["missing/file.json"], "does not exist"),
        (["lvis_v1", "--lambda", "1.5"], "must lie in"),
    ],
)
def test_errors_are_one_sentence(run, arguments: list[str], message: str):
    with pytest.raises(SystemExit, match=message):
        run(*arguments)

"""MMDetection's own tools for pictures, in a directory that knows nothing of the training."""

from __future__ import annotations

import ast
import json
import sys

import pytest
from small_run import CONFIG, ROOT, options, run

#: What mmdet's image demo does with its arguments: PICTURE CONFIG --weights --device --out-dir.
WITH_CONFIG = """
import sys
from mmdet.apis import DetInferencer
picture, config, checkpoint = sys.argv[1:]
inferencer = DetInferencer(model=config, weights=checkpoint, device="cpu")
result = inferencer(inputs=picture, out_dir="out", no_save_pred=False, pred_score_thr=0.0)
print(inferencer.model.dataset_meta["classes"][0], len(result["predictions"][0]["scores"]))
"""
WITHOUT_CONFIG = """
import sys
import mmdet_droploss
from mmdet.apis import DetInferencer
picture, config, checkpoint = sys.argv[1:]
result = DetInferencer(weights=checkpoint, device="cpu")(picture, return_vis=True, no_save_vis=True)
print(result["visualization"][0].shape, len(result["predictions"][0]["scores"]))
"""
INIT_DETECTOR = """
import sys
import mmdet_droploss
from mmdet.apis import inference_detector, init_detector
picture, config, checkpoint = sys.argv[1:]
result = inference_detector(init_detector(config, checkpoint, device="cpu"), picture)
print("masks", tuple(result.pred_instances.masks.shape))
"""


@pytest.fixture(scope="module")
def trained(mini_lvis_dir, tmp_path_factory):
    """Config and checkpoint of a training whose paths are relative to a directory of its own."""
    folder = tmp_path_factory.mktemp("training")
    (folder / "data").symlink_to(mini_lvis_dir)
    start = [sys.executable, ROOT / "tools" / "train.py", CONFIG, "--work-dir", "work"]
    done = run([*start, *options("data", 2)], folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "work" / CONFIG.name, folder / "work" / "iter_2.pth"


def detect(program, mini_lvis_dir, trained, folder, *options):
    picture = min((mini_lvis_dir / "val2017").iterdir())
    file = folder / "program.py"
    file.write_text(program)
    done = run([sys.executable, *options, file, picture, *trained], folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return done, picture


def test_an_inferencer_with_config_and_checkpoint(mini_lvis_dir, trained, tmp_path):
    # The program imports mmdet first.
    options = ("-m", "mmdet_droploss")
    done, picture = detect(WITH_CONFIG, mini_lvis_dir, trained, tmp_path, *options)
    assert "data/annotations/lvis_v1_train.json' does not exist" in done.stderr
    assert "Inference alone does without it" in done.stderr
    first, number = done.stdout.split()[-2:]
    assert first == "capital_a" and int(number) > 0
    assert (tmp_path / "out" / "vis" / picture.name).stat().st_size > 0
    saved = json.loads((tmp_path / "out" / "preds" / f"{picture.stem}.json").read_text())
    assert len(saved["scores"]) == len(saved["masks"]) == int(number)


def test_an_inferencer_with_a_checkpoint_only(mini_lvis_dir, trained, tmp_path):
    done, _ = detect(WITHOUT_CONFIG, mini_lvis_dir, trained, tmp_path)
    shape, number = done.stdout.strip().splitlines()[-1].rsplit(maxsplit=1)
    assert ast.literal_eval(shape) == (96, 96, 3) and int(number) > 0


def test_init_detector(mini_lvis_dir, trained, tmp_path):
    done, _ = detect(INIT_DETECTOR, mini_lvis_dir, trained, tmp_path)
    name, shape = done.stdout.strip().splitlines()[-1].split(maxsplit=1)
    assert name == "masks" and ast.literal_eval(shape)[1:] == (96, 96)

"""Prove that every config is ready for LVIS.

Run ``python .dev_scripts/prove_configs.py --help`` for what is done.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mmengine.config import Config
from mmengine.runner import Runner
from mmengine.utils import ProgressBar
from model_zoo import read_models
from terminaltables import AsciiTable

import mmdet_droploss  # noqa: F401  (before mmdet: operators stand in where mmcv has none)

# isort: split
from mmdet.datasets import LVISV05Dataset

from mmdet_droploss.utils import write_atomically

ROOT = Path(__file__).resolve().parents[1]
COMMAND = "python .dev_scripts/prove_configs.py"
SMALL_SCALE = (192, 128)
TRAINED_IMAGES = 2

DESCRIPTION = """\
Lists the configs with the rows of the paper that they stand for, and proves each one: the model is
built in full size with the real number of categories, trained for an iteration through MMEngine's
Runner, saved, resumed for another iteration, and the checkpoint tested, with box and mask AP. The
data are generated, LVIS's categories and counts on small images (make_mini_lvis.py --like-lvis);
no weights are downloaded. What only a GPU can do, mixed precision, is left out and said.

Each config runs in a process of its own and takes half a minute to a minute on 2 cores, so all of
them take the better part of an hour. In the end there is a table; the exit status is 1 if one
failed.
"""

EPILOG = f"""\
examples:
  {COMMAND} --processes 2                       # all, two at once
  {COMMAND} --list                              # only say which there are
  {COMMAND} --only '*cascade*rfs*' --json proof.json
"""


def rows_of_the_paper(model: dict) -> str:
    """``Table 1``, or nothing."""
    source = model["Metadata"].get("Numbers From", "").partition(";")[0]
    return source.removeprefix("the paper, ")


def make_data(folder: Path) -> None:
    """LVIS v1.0's categories on a few images, and the same images with v0.5's categories."""
    script = ROOT / "tools" / "dataset_converters" / "make_mini_lvis.py"
    options = ["--like-lvis", "--train-images", "60", "--val-images", "4", "--quiet"]
    subprocess.run([sys.executable, str(script), str(folder / "lvis_v1"), *options], check=True)
    if (folder / "lvis_v0.5").is_dir():
        return
    target = Path(tempfile.mkdtemp(prefix="lvis_v0.5-", dir=folder))  # renamed when it is complete
    (target / "annotations").mkdir(parents=True)
    for name in ("train", "val"):
        source = folder / "lvis_v1" / "annotations" / f"lvis_v1_{name}.json"
        content = json.loads(source.read_text())
        first = content["categories"][0]
        content["categories"] = [
            {**first, "id": number, "name": name, "synset": f"category.n.{number}"}
            for number, name in enumerate(LVISV05Dataset.METAINFO["classes"], start=1)
        ]
        # v0.5 has file names, and no URLs that say in which of two folders an image is.
        for image in content["images"]:
            image["file_name"] = "/".join(image["coco_url"].split("/")[-2:])
        file = target / "annotations" / f"lvis_v0.5_{name}.json"
        write_atomically(file, json.dumps(content))
    for images in ("train2017", "val2017"):
        (target / images).symlink_to(folder / "lvis_v1" / images)
    target.rename(folder / "lvis_v0.5")


def small(path: Path, data: Path, work_dir: Path) -> Config:
    """The config on the generated data; the model is left as it is, but for its weights."""
    cfg = Config.fromfile(path)
    cfg.model.backbone.init_cfg = None
    cfg.work_dir = str(work_dir)
    is_v05 = cfg.class_freq == "lvis_v0.5"
    root = data / ("lvis_v0.5" if is_v05 else "lvis_v1")
    for name in ("train", "val", "test"):
        loader = cfg[f"{name}_dataloader"]
        loader.num_workers, loader.persistent_workers = 0, False
        loader.dataset.data_root = f"{root}/"
        loader.dataset.indices = TRAINED_IMAGES if name == "train" else 1
        if is_v05:
            loader.dataset.data_prefix = dict(img="")
        for transform in loader.dataset.pipeline:
            if transform.type == "Resize":
                transform.scale = SMALL_SCALE
            elif transform.type == "RandomChoiceResize":
                transform.scales = [SMALL_SCALE]
    for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
        evaluator.ann_file = str(root / "annotations" / Path(evaluator.ann_file).name)
    cfg.default_hooks.logger.interval = 1
    cfg.default_hooks.checkpoint.interval = 1
    cfg.visualizer.vis_backends = None
    cfg.log_level = "ERROR"
    return cfg


def train(cfg: Config, steps: int) -> tuple[float, float]:
    """Train until there are so many iterations.

    Returns:
        The last loss, and the seconds that it took to build the model.
    """
    by_epoch = cfg.train_cfg.get("type") == "EpochBasedTrainLoop" or cfg.train_cfg.get("by_epoch")
    cfg.train_cfg["max_epochs" if by_epoch else "max_iters"] = steps
    cfg.train_cfg.val_interval = 1000
    begin = time.perf_counter()
    runner = Runner.from_cfg(cfg)  # the data loaders are built when they are needed
    built = time.perf_counter() - begin
    runner.train()
    loss = runner.message_hub.get_scalar("train/loss").current()
    if runner.iter != steps:
        raise RuntimeError(f"{runner.iter} iterations were trained instead of {steps}")
    return float(loss), built


def prove(path: Path, data: Path) -> dict:
    """Build, train, save, resume and test one config."""
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    found: dict[str, object] = {}
    with tempfile.TemporaryDirectory(prefix="prove_configs-") as folder:
        cfg = small(path, data, Path(folder))
        if cfg.optim_wrapper.type == "AmpOptimWrapper":
            import torch

            if not torch.cuda.is_available():
                found["left out"] = "mixed precision, which needs a GPU"
                cfg.optim_wrapper.type = "OptimWrapper"
                cfg.optim_wrapper.pop("loss_scale", None)
        begin = time.perf_counter()
        first, built = train(cfg, 1)
        middle = time.perf_counter()
        resumed = small(path, data, Path(folder))
        resumed.optim_wrapper = cfg.optim_wrapper
        resumed.resume = True
        second, _ = train(resumed, 2)
        tested = small(path, data, Path(folder))
        tested.load_from = Path(folder, "last_checkpoint").read_text()
        start = time.perf_counter()
        metrics = Runner.from_cfg(tested).test()
        end = time.perf_counter()
    losses = [first, second]
    if not all(0 < loss < 1e4 for loss in losses):  # NaN is not
        raise RuntimeError(f"the losses are {losses}")
    if len(metrics) != 26:
        raise RuntimeError(f"the test gave {sorted(metrics)}")
    seconds = {"build": built, "train": middle - begin - built, "test": end - start}
    return {**found, "losses": losses, **seconds}


def prove_in_its_own_process(path: Path, data: Path, threads: int) -> dict:
    """The same; what goes wrong is in ``error``."""
    done = subprocess.run(
        [sys.executable, __file__, "--one", str(path), "--work-dir", str(data)],
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        capture_output=True,
        text=True,
    )
    lines = done.stdout.splitlines()
    if done.returncode == 0 and lines:
        return json.loads(lines[-1])
    said = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
    return {"error": said[-1], "output": done.stderr[-4000:]}


def as_cells(model: dict, found: dict) -> list[str]:
    """A line of the table."""
    cells = [model["Name"], rows_of_the_paper(model)]
    if "error" in found:
        return [*cells, "", "", "", "", f"FAILED: {found['error'][:80]}"]
    losses = ", ".join(f"{loss:.2f}" for loss in found["losses"])
    result = f"ok, without {found['left out']}" if "left out" in found else "ok"
    seconds = [f"{found[part]:.0f}" for part in ("build", "train", "test")]
    return [*cells, losses, *seconds, result]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", metavar="GLOB", default="*", help="names of configs (all)")
    parser.add_argument("--list", action="store_true", help="only list them")
    parser.add_argument(
        "--processes",
        type=int,
        default=1,
        metavar="N",
        help="how many at once (%(default)s)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was found here, too")
    parser.add_argument(
        "--work-dir",
        type=Path,
        default=Path(tempfile.gettempdir()) / "mmdet_droploss_proof",
        help="where the generated data go, and stay (%(default)s)",
    )
    parser.add_argument(
        "--one", type=Path, help=argparse.SUPPRESS
    )  # what a process of its own gets
    args = parser.parse_args(argv)
    if args.one is not None:
        print(json.dumps(prove(args.one, args.work_dir)))
        return 0
    if args.processes < 1:
        parser.error(f"--processes must be at least 1, but it is {args.processes}")
    models = [
        model
        for model in read_models()
        if fnmatch.fnmatch(model["Name"], args.only)
        and model["Metadata"]["Training Data"] != "mini-LVIS"
    ]
    if not models:
        parser.error(f"--only {args.only!r} is the name of no config; --list says which there are")
    if args.list:
        rows = [[model["Name"], rows_of_the_paper(model)] for model in models]
        print(AsciiTable([["config", "the paper's"], *rows]).table)
        return 0
    args.work_dir = args.work_dir.resolve()
    make_data(args.work_dir)
    bar = ProgressBar(len(models), file=sys.stderr)
    found = {}
    threads = max((os.cpu_count() or 1) // args.processes, 1)

    def prove_model(model: dict) -> dict:
        return prove_in_its_own_process(ROOT / model["Config"], args.work_dir, threads)

    with ThreadPoolExecutor(args.processes) as pool:
        for model, of_one in zip(models, pool.map(prove_model, models), strict=True):
            found[model["Name"]] = of_one
            bar.update()
            if args.json is not None:  # each time: it takes long enough to be interrupted
                write_atomically(args.json, json.dumps(found, indent=1))
    print(file=sys.stderr)
    header = ["config", "the paper's", "losses", "build, s", "train, s", "test, s", ""]
    rows = [as_cells(model, found[model["Name"]]) for model in models]
    print(AsciiTable([header, *rows]).table)
    failed = [name for name, of_one in found.items() if "error" in of_one]
    for name in failed:
        print(f"\n{name}:\n{found[name]['output']}", file=sys.stderr)
    print(f"{len(found) - len(failed)} of {len(found)} configs are proved")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

r"""Write a config for a data set of your own, after looking at all of it.

Both annotation files are read as training and evaluation will read them, and the size of every
picture is compared with what they say. Then it shows the long tail, proposes the tail's threshold
and a schedule, and writes a short config that you can read and change. What training would refuse
is refused here, before anything is written.

Examples:
    python tools/misc/new_config.py data/mine/train.json data/mine/val.json --images data/mine

    # a cascade with repeat factor sampling, for 4 GPUs
    python tools/misc/new_config.py TRAIN.json VAL.json --images DIR --gpus 4 \
        --base droploss/cascade_mask_rcnn_r50_fpn_rfs_lvis.py --out my_cascade.py

    # the pictures of the validation set lie in another folder
    python tools/misc/new_config.py TRAIN.json VAL.json --images DIR --val-images DIR
"""

from __future__ import annotations

import argparse
import difflib
import inspect
import os
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import torch
from mmdet.registry import DATASETS, METRICS, MODELS
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from rich.console import Console
from rich.progress import track
from terminaltables import AsciiTable

from mmdet_droploss.analysis.proposals import Tail, propose_schedule, propose_tail, threshold
from mmdet_droploss.annotations import (
    GROUP_NAMES,
    AnnotationFile,
    ClassFrequency,
    load_class_frequency,
    read_annotation_file,
)
from mmdet_droploss.annotations.ground_truth import GroundTruth
from mmdet_droploss.annotations.names import Categories, difference, repeated_name
from mmdet_droploss.annotations.pictures import PictureRule, check_pictures
from mmdet_droploss.models.losses import LongTailLoss
from mmdet_droploss.utils import write_atomically

#: configs/ stands beside tools/, in the repository and in what mim installs.
CONFIGS = Path(__file__).resolve().parents[2] / "configs"
GROUP_RANGES = ("at most 10", "11 to 100", "more than 100")
DEFAULT_BASE = "droploss/mask_rcnn_r50_fpn_lvis.py"


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("train", metavar="TRAIN.json", help="annotations to train on")
    parser.add_argument("val", metavar="VAL.json", help="annotations to validate and test on")
    parser.add_argument(
        "--images", required=True, metavar="DIR", help="where the files' file_name starts from"
    )
    parser.add_argument(
        "--val-images", metavar="DIR", help="the same for VAL.json, if it is another folder"
    )
    parser.add_argument(
        "--base",
        default=DEFAULT_BASE,
        metavar="CONFIG",
        help=f"config of this package to build on, below configs/ (default: {DEFAULT_BASE})",
    )
    parser.add_argument(
        "--gpus",
        type=int,
        default=max(torch.cuda.device_count(), 1),
        metavar="N",
        help="GPUs, or CPU processes, to plan for; by default this machine's, here %(default)s",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("my_config.py"),
        metavar="FILE.py",
        help="where to write it (default: my_config.py)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace FILE.py if it exists")
    parser.add_argument(
        "--skip-pictures",
        action="store_true",
        help="do not look at the pictures' sizes; training does, at each picture that it loads",
    )
    args = parser.parse_args(argv)
    if args.gpus < 1:
        parser.error(f"--gpus must be at least 1, but it is {args.gpus}")
    if args.out.suffix != ".py":
        parser.error(f"--out must end in .py, but it is {args.out}")
    return args


# ---- the config ----------------------------------------------------------------------------------

TEMPLATE = """\
# {{ summary }}
# Written by tools/misc/new_config.py; what is not here is as in the base.
_base_ = "{{ base }}"
train, val = "{{ args.train }}", "{{ args.val }}"
num_classes = {{ num_classes }}

{% if "class_freq=train" in loss -%}
{{ ("Tail: " ~ tail.reason ~ ".") | comment }}
{% endif -%}
head = dict(num_classes=num_classes{% if loss %}, loss_cls=dict({{ loss | join(", ") }}){% endif %})
model = dict(roi_head=dict(bbox_head=head, mask_head=dict(num_classes=num_classes)))

{% if class_names -%}
# The files' categories; {{ dataset }}'s own are all of LVIS.
classes = (
{{ class_names | pack }}
)
data = dict(type="{{ dataset }}", data_root="", metainfo=dict(_delete_=True, classes=classes))
{% else -%}
# The names of the categories come from the files.
data = dict(type="{{ dataset }}", data_root="")
{% endif -%}
{% if base_has_names and not class_names -%}
data["metainfo"] = dict(_delete_=True)  # the base's names are not these
{% endif -%}
pictures = dict(img="{{ pictures }}")
train_dataloader = dict(dataset=dict(ann_file=train, data_prefix=pictures, **data))
{% if rfs_threshold is not none -%}
# Repeats the images of categories that are in fewer images than this share.
train_dataloader["sampler"] = dict(threshold={{ rfs_threshold }})
{% endif -%}
{% if val_pictures != pictures -%}
pictures = dict(img="{{ val_pictures }}")
{% endif -%}
val_dataloader = dict(dataset=dict(ann_file=val, data_prefix=pictures, **data))
test_dataloader = val_dataloader
{% if other_groups -%}
{{ other_groups | comment }}
{% endif -%}
val_evaluator = dict(ann_file=val{{ "" if val_has_groups else ", class_freq=train" }})
test_evaluator = val_evaluator

{% if schedule is none -%}
# The schedule is the base's, which counts in epochs.
{% else -%}
{{ ("Schedule: " ~ schedule.reason ~ ".") | comment }}
max_iters = {{ schedule.max_iters }}
train_cfg = dict(max_iters=max_iters, val_interval={{ schedule.interval }})
param_scheduler = [
    dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end={{ schedule.warmup }}),
    dict(
        type="MultiStepLR",
        by_epoch=False,
        begin=0,
        end=max_iters,
        milestones={{ schedule.milestones | list }},
        gamma=0.1,
    ),
]
default_hooks = dict(checkpoint=dict(interval={{ schedule.interval }}))
{% endif -%}
# The base's learning rate is for base_batch_size images; this scales it to those of an iteration.
auto_scale_lr = dict(enable=True)
"""


def comment(text: str) -> str:
    """The text as lines of comment."""
    return textwrap.fill(text, 98, initial_indent="# ", subsequent_indent="# ")


def pack(names: Sequence[str]) -> str:
    """The names as the lines of a tuple."""
    lines = [""]
    for name in names:
        part = f"{name!r}, "
        if lines[-1] and len(lines[-1] + part) > 92:
            lines.append("")
        lines[-1] += part
    return "\n".join(" " * 4 + line.rstrip() for line in lines)


def loss_arguments(base: Config, tail: Tail) -> list[str]:
    """What the base's loss has to be told of the data set, as keyword arguments."""
    type_ = base.model.roi_head.bbox_head.loss_cls["type"]
    loss = MODELS.get(type_)
    if issubclass(loss, LongTailLoss):
        found = ["num_classes=num_classes", "class_freq=train"]
        return found if tail.lambda_ is None else [*found, f"lambda_={tail.lambda_}"]
    accepts = inspect.signature(loss).parameters
    return ["num_classes=num_classes"] if "num_classes" in accepts else []


def load_base(name: str) -> Config:
    """The config of this package that the new one is built on.

    Raises:
        ValueError: If there is none of this name, or it has no box classifier of one dict.
    """
    path = CONFIGS / name
    if not path.is_file():
        names = [p.relative_to(CONFIGS).as_posix() for p in sorted(CONFIGS.glob("[!_]*/*.py"))]
        near = " or ".join(difflib.get_close_matches(name, names, 3, 0.5))
        hint = f"; did you mean {near}?" if near else ""
        raise ValueError(f"--base {name!r} is no config below {CONFIGS}{hint}")
    return Config.fromfile(path)


# ---- looking at the data -------------------------------------------------------------------------


def dataset_type(train: AnnotationFile, val: AnnotationFile) -> str:
    """The data set whose rule says where the pictures of both files are.

    Raises:
        ValueError: If the two files name pictures in different ways.
    """
    for name in ("FastCocoDataset", "FastLVISV1Dataset"):
        key = DATASETS.get(name).PICTURES.key
        if all(image.get(key) for file in (train, val) for image in file.images):
            return name
    raise ValueError(
        f"every image needs a 'file_name' (COCO format), or every image a 'coco_url' (LVIS v1), in "
        f"{train.name} as in {val.name}"
    )


def _categories(file: AnnotationFile) -> Categories:
    return Categories.of_file(file.name, file.categories)


def check_names(train: AnnotationFile, val: AnnotationFile) -> None:
    """Compare the categories of the two files.

    Raises:
        ValueError: If they are not the same in the same order; names the first that differs.
    """
    lists = [_categories(file) for file in (train, val)]
    text = repeated_name(lists[0]) or difference(*lists)
    if text:
        raise ValueError(
            f"{text}. A label is a category's place in the file, so both must list the same "
            f"categories in the same order"
        )


def names_to_write(type_: str, file: AnnotationFile) -> tuple[str, ...]:
    """The names of a file, if the data set would take others for them; else none."""
    own = DATASETS.get(type_).METAINFO.get("classes")
    if own is None or file.category_names is None:
        return ()
    theirs = Categories("its own", len(own), tuple(own))
    return file.category_names if difference(theirs, _categories(file)) else ()


def describe_other_groups(ground_truth: GroundTruth, frequency: ClassFrequency) -> str | None:
    """Where the letters of the validation file are not the groups of the training images."""
    letters = [category["frequency"] for category in ground_truth.categories]
    counted = [GROUP_NAMES[group][0] for group in frequency.groups]
    differ = [label for label in range(len(letters)) if letters[label] != counted[label]]
    if not differ:
        return None
    first = differ[0]
    return (
        f"APr, APc and APf go by the letters in {ground_truth.ann_file}, which for {len(differ)} "
        f"of {len(letters)} categories are not those of the training images: "
        f"{ground_truth.names[first]!r} is {letters[first]!r} there and has "
        f"{frequency.image_count[first]} training images, {counted[first]!r}. class_freq=train in "
        f"val_evaluator counts the training images instead."
    )


def check_all_pictures(file: AnnotationFile, folder: str, rule: PictureRule) -> None:
    """Compare each picture's size with the file.

    Raises:
        ValueError: If a picture is missing, unreadable or of another size; names the first few.
    """
    found = track(
        check_pictures(file.images, folder, [rule]),
        description=f"pictures of {Path(file.name).name}",
        total=len(file.images),
        console=Console(stderr=True),
    )
    problems = [problem for problem in found if problem is not None]
    if problems:
        first = "\n".join(f"  {p.path} (image id {p.image_id}): {p.text}" for p in problems[:5])
        raise ValueError(
            f"{len(problems)} of the {len(file.images)} pictures are not what {file.name} says:\n"
            f"{first}\nCorrect the file, the pictures or --images; --skip-pictures leaves this out"
        )


def build_dataset(base: Config, type_: str, split: str, ann_file: str, folder: str) -> Any:
    """A data set as training will build it, with all its checks."""
    cfg = base[f"{split}_dataloader"].dataset.copy()
    cfg.pop("metainfo", None)
    cfg.update(type=type_, data_root="", ann_file=ann_file, data_prefix=dict(img=folder))
    return DATASETS.build(cfg)


def main(argv: Sequence[str] | None = None) -> None:
    """Look, propose, write."""
    args = parse_args(argv)
    try:
        write(args)
    except (ValueError, OSError) as error:
        sys.exit(f"new_config.py: error: {error}")


def write(args: argparse.Namespace) -> None:
    """The whole way from the files to the config."""
    if args.out.exists() and not args.overwrite:
        raise ValueError(f"{args.out} exists; --overwrite replaces it, --out names another")
    base = load_base(args.base)
    init_default_scope("mmdet")
    MMLogger.get_instance("new_config", logger_name="new_config", log_level="WARNING")
    pictures, val_pictures = (folder(d) for d in (args.images, args.val_images or args.images))

    train, val = read_annotation_file(args.train), read_annotation_file(args.val)
    check_names(train, val)
    type_ = dataset_type(train, val)
    dataset = build_dataset(base, type_, "train", args.train, pictures)
    num_images = len(dataset)
    build_dataset(base, type_, "val", args.val, val_pictures)
    frequency = load_class_frequency(args.train)
    val_has_groups = all(category.get("frequency") for category in val.categories)
    metric = METRICS.build(
        {
            **base.val_evaluator,
            "ann_file": args.val,
            "class_freq": None if val_has_groups else args.train,
        }
    )
    if not args.skip_pictures:
        rule = DATASETS.get(type_).PICTURES
        check_all_pictures(train, pictures, rule)
        check_all_pictures(val, val_pictures, rule)

    print(describe(frequency))
    tail = propose_tail(frequency)
    loss = loss_arguments(base, tail)
    batch_size = base.train_dataloader.batch_size
    schedule = None
    if "max_iters" in base.train_cfg:
        schedule = propose_schedule(num_images, batch_size * args.gpus, base)
    has_rfs = base.train_dataloader.sampler.type == "RepeatFactorSampler"
    template = jinja2.Environment(keep_trailing_newline=True, undefined=jinja2.StrictUndefined)
    template.filters |= {"comment": comment, "pack": pack}
    other_groups = describe_other_groups(metric.ground_truth, frequency)
    text = template.from_string(TEMPLATE).render(
        args=args,
        summary=f"{frequency.num_classes} categories, {num_images:,} images to train on, "
        f"{len(val.images):,} to validate on.",
        base=base_path(CONFIGS / args.base, args.out.resolve()),
        base_has_names="metainfo" in base.train_dataloader.dataset,
        class_names=names_to_write(type_, train),
        num_classes=frequency.num_classes,
        other_groups=other_groups,
        loss=loss,
        tail=tail,
        dataset=type_,
        pictures=pictures,
        val_pictures=val_pictures,
        rfs_threshold=min(threshold(tail.most_images, num_images), 1.0) if has_rfs else None,
        val_has_groups=val_has_groups,
        schedule=schedule,
    )
    write_atomically(args.out, text)
    if "class_freq=train" in loss:
        print(f"\nThe tail: {tail.reason}.")
    if other_groups is not None:
        print(other_groups)
    if schedule is not None:
        print(f"The schedule: {schedule.reason}.")
    print(f"wrote {args.out}: read it, change what you know better. Then train:\n")
    print(f"    bash tools/dist_train.sh {args.out} {args.gpus}")


def base_path(base: Path, out: Path) -> str:
    """How a config names its base: relative inside the repository, absolute from elsewhere."""
    if out.is_relative_to(CONFIGS.parent):
        return Path(os.path.relpath(base, out.parent)).as_posix()
    return base.as_posix()


def folder(path: str) -> str:
    """With a slash at its end, as ``data_prefix`` wants it."""
    return path.rstrip("/") + "/"


def describe(frequency: ClassFrequency) -> str:
    """The long tail as a table."""
    rows = [["group", "training images", "categories", "instances"]]
    for index, (name, span) in enumerate(zip(GROUP_NAMES, GROUP_RANGES, strict=True)):
        of_group = frequency.groups == index
        instances = int(frequency.instance_count[of_group].sum())
        rows.append([name, span, str(of_group.sum()), f"{instances:,}"])
    table = AsciiTable(rows)
    table.justify_columns = {2: "right", 3: "right"}
    return table.table


if __name__ == "__main__":
    main()

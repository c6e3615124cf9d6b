"""Write docs/model_zoo.md and the tables of configs/*/README.md from the metafiles.

Run ``python .dev_scripts/model_zoo.py --help`` for what it takes from where.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml
from mmengine.config import Config
from pages import write_pages

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "model_zoo.md"
COMMAND = "python .dev_scripts/model_zoo.py"

DESCRIPTION = """\
Writes docs/model_zoo.md: a table for each data set, a row for each config. The same rows go into
the README beside their metafile, between the lines "models: begin" and "models: end".

The numbers and their sources are those of the metafiles that model-index.yml lists, so that they
stand in one place only. Detector, backbone, arguments of the loss, and sampler are read from the
configs themselves. To add a config, give it an entry in the metafile of its loss, then run this.
"""

EPILOG = f"""\
examples:
  {COMMAND}            # write the pages
  {COMMAND} --check    # only say whether they are up to date; exit status 1 if one is not
"""

INTRODUCTION = f"""\
# Model zoo

<!-- Made by `{COMMAND}` from the metafiles and the configs. Edit those. -->

**The numbers on this page are the paper's, not ours.** Nobody has trained LVIS with this repository
yet, so there are no weights to download. The paper reports means of three runs with the authors'
Detectron2 code, on the validation sets.

APr, APc and APf are those of masks, too; all columns of the paper's tables are in
[The paper's results](paper_results.md). An empty cell means that the paper has no such row: of the
other values of b (`log_base`, by default 4) and of the drop ratio it has a picture only. For LVIS
v1.0 it has a "Baseline" and does not say whether that is sigmoid or softmax; here it stands beside
sigmoid.

Cascade Mask R-CNN is Detectron2's, as in the paper; configs with `cascade_mask_rcnn_mmdet` in their
names have MMDetection's. RFS is repeat factor sampling. Configs with `1x` or `2x` in their names
have MMDetection's schedules of 12 or 24 epochs, `amp` is mixed precision, and `torchvision` means
that the backbone starts from torchvision's weights. More about the names: [Configs](configs.md).
"""

#: What follows the heading of a data set.
NOTES = {
    "mini-LVIS": "A synthetic data set, which the paper does not have. "
    "What was measured with them is in [Evidence](evidence.md).\n",
}

DETECTORS = {"MaskRCNN": "Mask R-CNN", "CascadeRCNN": "Cascade Mask R-CNN"}
#: What a classification loss has in any config, so that a table need not say it.
COMMON_ARGUMENTS = {"type", "num_classes", "class_freq", "loss_weight", "use_sigmoid"}
#: Column titles by the names that the metafiles have for metrics.
METRICS = {
    "mask AP": "mask AP",
    "mask APr": "APr",
    "mask APc": "APc",
    "mask APf": "APf",
    "box AP": "box AP",
}


@dataclasses.dataclass(frozen=True)
class Row:
    """What the table says about a config, and by what it is sorted."""

    order: tuple
    name: str
    config: str
    folder: str
    data_set: str
    cells: dict[str, str]
    numbers: dict[str, str]


def read_models() -> list[dict]:
    """The entries of all metafiles, in the order of model-index.yml, with the metafile's folder."""
    index = yaml.safe_load((ROOT / "model-index.yml").read_text(encoding="utf-8"))
    return [
        model | {"Folder": str(Path(name).parent)}
        for name in index["Import"]
        for model in yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))["Models"]
    ]


def describe_loss(collection: str, loss: dict) -> str:
    """The loss and the arguments that the config gives it."""
    own = [f"{key}={value}" for key, value in loss.items() if key not in COMMON_ARGUMENTS]
    return f"{collection}, `{', '.join(own)}`" if own else collection


def make_row(model: dict, collections: Sequence[str]) -> Row:
    """The row of one entry of a metafile; ``collections`` decides the order of the losses."""
    config = Config.fromfile(ROOT / model["Config"])
    detector, backbone = DETECTORS[config.model.type], config.model.backbone
    torchvision = (backbone.init_cfg or {}).get("checkpoint", "").startswith("torchvision://")
    rfs = config.train_dataloader.sampler.type == "RepeatFactorSampler"
    metrics: dict[str, float] = {}
    for result in model.get("Results", []):
        metrics |= result["Metrics"]
    numbers = {
        title: f"{metrics[name]:.1f}" if name in metrics else "" for name, title in METRICS.items()
    }
    # "the paper, Table 1; not measured with this repository": the page says the rest once.
    source = model["Metadata"].get("Numbers From", "").partition(";")[0]
    return Row(
        order=(
            list(DETECTORS).index(config.model.type),
            backbone.depth,
            rfs,
            torchvision,
            collections.index(model["In Collection"]),
            model["Name"],
        ),
        name=model["Name"],
        config=model["Config"],
        folder=model["Folder"],
        data_set=model["Metadata"]["Training Data"],
        cells={
            "detector": detector,
            "backbone": f"R-{backbone.depth}-FPN" + (", torchvision" if torchvision else ""),
            "loss": describe_loss(model["In Collection"], config.model.roi_head.bbox_head.loss_cls),
            "data": model["Metadata"]["Training Data"],
            "RFS": "yes" if rfs else "no",
        },
        numbers=numbers | {"source": source.removeprefix("the paper, ")},
    )


def make_table(rows: Sequence[Row], folder: str) -> str:
    """A Markdown table for a page in ``folder``; without columns of numbers if no row has one."""
    has_numbers = any(row.numbers["source"] for row in rows)
    lines = [
        {"config": f"[{row.name}]({os.path.relpath(row.config, folder)})", **row.cells}
        | (row.numbers if has_numbers else {})
        for row in rows
    ]
    numeric = set(METRICS.values())
    header = list(lines[0])
    rule = ["--:" if title in numeric else ":--" for title in header]
    return "".join(
        "| " + " | ".join(cells) + " |\n"
        for cells in [header, rule, *(list(line.values()) for line in lines)]
    )


def make_rows() -> list[Row]:
    """The rows of all configs."""
    models = read_models()
    collections = list(dict.fromkeys(model["In Collection"] for model in models))
    return sorted((make_row(model, collections) for model in models), key=lambda row: row.order)


def make_page(rows: Sequence[Row]) -> str:
    """The whole page of the model zoo."""
    parts = [INTRODUCTION]
    for data_set in sorted({row.data_set for row in rows}):
        parts.append(f"## {data_set}\n")
        if data_set in NOTES:
            parts.append(NOTES[data_set])
        parts.append(make_table([row for row in rows if row.data_set == data_set], "docs"))
    return "\n".join(parts)


def make_readme(folder: Path, rows: Sequence[Row]) -> str:
    """The README of a folder of configs, with its table replaced."""
    name = folder.relative_to(ROOT).as_posix()
    table = make_table([row for row in rows if row.folder == name], name)
    begin, end = "<!-- models: begin -->\n", "<!-- models: end -->\n"
    head, _, rest = (folder / "README.md").read_text(encoding="utf-8").partition(begin)
    return head + begin + table + end + rest.partition(end)[2]


def make_pages() -> dict[Path, str]:
    """All pages by their paths."""
    rows = make_rows()
    folders = sorted({ROOT / row.folder for row in rows})
    return {PAGE: make_page(rows), **{f / "README.md": make_readme(f, rows) for f in folders}}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="write nothing; exit with 1 if a page is not what would be written",
    )
    args = parser.parse_args(argv)
    return write_pages(make_pages(), args.check, COMMAND)


if __name__ == "__main__":
    sys.exit(main())

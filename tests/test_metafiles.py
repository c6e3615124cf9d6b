"""The model index: what mim and other readers of OpenMMLab's format find in it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
INDEX = yaml.safe_load((ROOT / "model-index.yml").read_text(encoding="utf-8"))
METAFILES = [ROOT / name for name in INDEX["Import"]]
CONTENTS = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in METAFILES]
COLLECTIONS = [collection for content in CONTENTS for collection in content["Collections"]]
MODELS = [model for content in CONTENTS for model in content["Models"]]
LEAF_CONFIGS = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (ROOT / "configs").rglob("*.py")
    if "_base_" not in path.parts
)


#: Names of losses in collections and folders, where they are not the loss's own.
COLLECTION_OF_LOSS = {
    "SigmoidBCELoss": "Sigmoid BCE",
    "CrossEntropyLoss": "Softmax",
    "FixedDropLoss": "Fixed drop ratio",
    "SeesawLoss": "Seesaw",
    "EQLV2BBoxLoss": "EQLv2",
    "FederatedLoss": "Federated",
}
FOLDER_OF_COLLECTION = {"Sigmoid BCE": "sigmoid", "Fixed drop ratio": "fixed_drop"}


def test_index_imports_every_metafile():
    assert set(INDEX) == {"Import"}
    found = {path.relative_to(ROOT).as_posix() for path in (ROOT / "configs").rglob("metafile.yml")}
    assert set(INDEX["Import"]) == found
    assert len(INDEX["Import"]) == len(found)


@pytest.mark.parametrize("collection", COLLECTIONS, ids=lambda collection: collection["Name"])
def test_collection(collection):
    assert set(collection) <= {"Name", "Metadata", "Paper", "README"}
    assert (ROOT / collection["README"]).is_file()
    for values in collection["Metadata"].values():
        # mim looks at the first entry of a list, so an empty one breaks its search.
        assert isinstance(values, list) and values
        assert all(isinstance(value, str) for value in values)
    if "Paper" in collection:
        assert collection["Paper"]["URL"].startswith("https://")
        assert collection["Paper"]["Title"]


@pytest.mark.parametrize("path, content", zip(METAFILES, CONTENTS, strict=True))
def test_a_metafile_is_that_of_one_loss(path, content):
    (collection,) = content["Collections"]
    name = collection["Name"]
    assert path.parent.name == FOLDER_OF_COLLECTION.get(name, name.lower())
    assert {model["In Collection"] for model in content["Models"]} == {name}
    folders = {Path(model["Config"]).parent.name for model in content["Models"]}
    assert folders <= {path.parent.name, "mini_lvis"}


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model["Name"])
def test_model(model):
    assert {"Name", "In Collection", "Config", "Metadata"} <= set(model)
    assert set(model) <= {"Name", "In Collection", "Config", "Metadata", "Results", "Weights"}
    assert (ROOT / model["Config"]).is_file()
    assert Path(model["Config"]).stem == model["Name"]
    assert model["In Collection"] in {collection["Name"] for collection in COLLECTIONS}
    assert model["Metadata"]["Training Data"]
    (length,) = {"Iterations", "Epochs"} & set(model["Metadata"])
    assert isinstance(model["Metadata"][length], int)
    for result in model.get("Results", []):
        assert set(result) == {"Task", "Dataset", "Metrics"}
        assert result["Task"] in ("Object Detection", "Instance Segmentation")
        for value in result["Metrics"].values():
            assert 0 < value < 100, "AP in percent"


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model["Name"])
def test_numbers_that_are_not_ours_say_so(model):
    """A model without weights was not trained here: its numbers need another source."""
    source = model["Metadata"].get("Numbers From")
    assert (source is not None) == ("Results" in model and "Weights" not in model)
    if source is not None:
        # docs/model_zoo.md has what stands before the semicolon, and says the rest for all.
        pattern = r'the paper, Table [123](, row "Baseline")?; not measured with this repository'
        assert re.fullmatch(pattern, source)
        metrics = set().union(*(result["Metrics"] for result in model["Results"]))
        assert {"mask AP", "mask APr", "mask APc", "mask APf", "box AP"} <= metrics


def test_names_are_unique():
    for entries in (MODELS, COLLECTIONS):
        names = [entry["Name"] for entry in entries]
        assert len(names) == len(set(names))
    # mim finds a config by its file name alone.
    stems = [Path(config).stem for config in LEAF_CONFIGS]
    assert len(stems) == len(set(stems))


def test_every_config_has_an_entry_and_only_one():
    assert sorted(model["Config"] for model in MODELS) == LEAF_CONFIGS


def test_every_collection_is_used():
    used = {model["In Collection"] for model in MODELS}
    assert used == {collection["Name"] for collection in COLLECTIONS}


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model["Name"])
def test_metadata_agrees_with_the_config(model):
    from mmengine.config import Config

    config = Config.fromfile(ROOT / model["Config"])
    loss = config.model.roi_head.bbox_head.loss_cls.type
    assert COLLECTION_OF_LOSS.get(loss, loss) == model["In Collection"]
    metadata = model["Metadata"]
    assert config.train_cfg.get("max_iters") == metadata.get("Iterations")
    assert config.train_cfg.get("max_epochs") == metadata.get("Epochs")
    (collection,) = (c for c in COLLECTIONS if c["Name"] == model["In Collection"])
    techniques = metadata.get("Training Techniques", collection["Metadata"]["Training Techniques"])
    optimizer = config.optim_wrapper.optimizer
    assert techniques[0] == {"SGD": "SGD with Momentum"}.get(optimizer.type, optimizer.type)
    assert ("Weight Decay" in techniques) == bool(optimizer.weight_decay)
    amp = config.optim_wrapper.type == "AmpOptimWrapper"
    assert ("Mixed Precision Training" in techniques) == amp
    data_set = {1230: "LVIS v0.5", 1203: "LVIS v1.0", 60: "mini-LVIS"}[config.num_classes]
    assert data_set == metadata["Training Data"]
    assert {result["Dataset"] for result in model.get("Results", [])} <= {data_set}

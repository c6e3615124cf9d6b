"""A stopped and resumed training is the training without the stop, and loads nothing twice."""

from __future__ import annotations

import itertools
import json
import pickle
import random
import resource

import numpy as np
import pytest
import torch
from logs import logged
from mmdet.datasets.samplers import AspectRatioBatchSampler
from mmengine.config import Config
from mmengine.dataset import BaseDataset, InfiniteSampler
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.logging import MessageHub
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, HOOKS, METRICS, MODELS, TRANSFORMS
from mmengine.runner import Runner
from torch.utils.data import BatchSampler, IterableDataset

from mmdet_droploss.engine.batches import EndlessBatchSampler, SeededBatch

IMAGES = 23


@TRANSFORMS.register_module()
class DrawThreeWays:
    """A random transform, as mmcv's (NumPy), torchvision's (torch) and others (Python) are."""

    def __init__(self, draws=True):
        self.draws = draws

    def __call__(self, info):
        if not self.draws:
            return dict(inputs=torch.tensor([float(info["sample_idx"]), 0, 0, 0]))
        drawn = [random.random(), np.random.rand(), torch.rand(()).item()]
        return dict(inputs=torch.tensor([float(info["sample_idx"]), *drawn]))


@DATASETS.register_module()
class Stream(IterableDataset):
    """Has no indices."""

    def __iter__(self):
        return iter(())


@DATASETS.register_module()
class Portraits(BaseDataset):
    """Numbers for images, every third higher than wide. Notes what is loaded in this process."""

    loaded: list[int] = []
    looked_up: list[int] = []

    def load_data_list(self):
        return [dict(width=3, height=4 if i % 3 == 0 else 2) for i in range(IMAGES)]

    def get_cat_ids(self, index):
        return [0] if index < 3 else [1]

    def get_data_info(self, index):
        self.looked_up.append(int(index))
        return super().get_data_info(index)

    def prepare_data(self, index):
        self.loaded.append(int(index))
        return super().prepare_data(index)


@MODELS.register_module()
class DrawingModel(BaseModel):
    """Draws on the CPU in all the ways that losses and proposal samplers do."""

    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(4, 8),
            torch.nn.BatchNorm1d(8),
            torch.nn.Dropout(0.5),
            torch.nn.Linear(8, 1),
        )

    def forward(self, inputs, mode="tensor"):
        inputs = torch.stack(list(inputs))
        if mode == "loss":  # a last batch may be of one image, too few for a norm layer
            inputs = inputs.repeat(2, 1)
        y = self.layers(inputs)
        if mode != "loss":
            return [dict(y=value) for value in y.flatten().tolist()]
        kept = torch.from_numpy(np.random.permutation(len(y)))[:2]
        return {"loss": (y[kept] * random.random() - torch.rand(2, 1)).square().mean()}


@METRICS.register_module()
class Sum(BaseMetric):
    def process(self, data_batch, data_samples):
        self.results += [sample["y"] for sample in data_samples]

    def compute_metrics(self, results):
        torch.rand(5), np.random.rand(3), random.random()  # leaves no trace in the training
        return {"sum": sum(results)}


class Stopped(Exception):
    """In place of a kill; tests/kill_and_resume.py kills."""


@METRICS.register_module()
class Falling(BaseMetric):
    """The best score comes first."""

    def process(self, data_batch, data_samples):
        self.results += data_samples

    def compute_metrics(self, results):
        return {"score": 1 / MessageHub.get_current_instance().get_info("iter")}


@HOOKS.register_module()
class StopHook(Hook):
    """Stop before an iteration, or in the validation after it, or at that validation's end."""

    def __init__(self, iteration, in_validation=False, after_validation=False):
        self.iteration, self.in_validation = iteration, in_validation
        self.after_validation = after_validation

    def after_val(self, runner):
        if runner.iter == self.iteration and self.after_validation:
            raise Stopped

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.iteration and not (self.in_validation or self.after_validation):
            raise Stopped

    def before_val_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.iteration and self.in_validation and batch_idx == 2:
            raise Stopped


def config(work_dir, **changes):
    cfg = Config(
        dict(
            default_scope="mmengine",
            work_dir=str(work_dir),
            experiment_name=f"{work_dir.name}{np.random.randint(1 << 30)}",
            model=dict(type="DrawingModel"),
            train_dataloader=dict(
                batch_size=2,
                num_workers=0,
                dataset=dict(type="Portraits", pipeline=[dict(type="DrawThreeWays")]),
                sampler=dict(type="InfiniteSampler", shuffle=True),
                batch_sampler=dict(type="mmdet.AspectRatioBatchSampler"),
            ),
            val_dataloader=dict(
                batch_size=2,
                num_workers=0,
                dataset=dict(type="Portraits", pipeline=[dict(type="DrawThreeWays")]),
                sampler=dict(type="DefaultSampler", shuffle=False),
            ),
            val_evaluator=dict(type="Sum"),
            val_cfg=dict(),
            train_cfg=dict(type="ResumableIterBasedTrainLoop", max_iters=24, val_interval=6),
            optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.01, momentum=0.9)),
            default_hooks=dict(
                checkpoint=dict(type="ResumableCheckpointHook", by_epoch=False, interval=3),
                logger=dict(type="LoggerHook", log_metric_by_epoch=False),
            ),
            log_processor=dict(by_epoch=False),
            randomness=dict(seed=5),
        )
    )
    cfg.merge_from_dict(changes)
    return cfg


def train(work_dir, stop=None, in_validation=False, after_validation=False, **changes):
    """Train, and say what is loaded (without workers) and logged."""
    cfg = config(work_dir, **changes)
    if stop is not None:
        where = dict(in_validation=in_validation, after_validation=after_validation)
        cfg.custom_hooks = [dict(type="StopHook", iteration=stop, **where)]
    Portraits.loaded.clear()
    Portraits.looked_up.clear()
    runner = Runner.from_cfg(cfg)
    with logged() as log:
        try:
            runner.train()
        except Stopped:
            assert stop is not None
    return list(Portraits.loaded), log.getvalue()


def end(work_dir, iteration=24):
    return torch.load(work_dir / f"iter_{iteration}.pth", weights_only=False)


def validations(work_dir):
    lines = []
    for file in sorted(work_dir.glob("*/vis_data/scalars.json")):
        lines += [json.loads(line) for line in file.read_text().splitlines()]
    return {line["step"]: line["sum"] for line in lines if "sum" in line}


def assert_equal_ends(one, other):
    assert_equal(end(one)["state_dict"], end(other)["state_dict"])
    assert_equal(end(one)["optimizer"], end(other)["optimizer"])


def assert_equal(one, other):
    torch.testing.assert_close(one, other, rtol=0, atol=0)


PLAIN = {"train_dataloader.batch_sampler": None}
DATA = {
    "aspect ratio": {},
    "plain": PLAIN,
    "a worker": {"train_dataloader.num_workers": 1},
    "workers that stay": {
        "train_dataloader.num_workers": 2,
        "train_dataloader.persistent_workers": True,
    },
    "rfs": {
        "train_dataloader.sampler": dict(
            _delete_=True, type="RepeatFactorSampler", threshold=0.5, infinite=True
        )
    },
    "epochs": {"train_dataloader.sampler.type": "DefaultSampler"},
    "plain epochs": {**PLAIN, "train_dataloader.sampler.type": "DefaultSampler"},
    "epochs of rfs": {
        "train_dataloader.sampler": dict(_delete_=True, type="RepeatFactorSampler", threshold=0.5)
    },
}


@pytest.mark.parametrize("data", DATA)
def test_the_end_is_that_of_a_run_without_a_stop(tmp_path, data):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    all_loaded, _ = train(whole, **DATA[data])
    train(stopped, stop=7, **DATA[data])
    train(stopped, stop=14, resume=True, **DATA[data])
    loaded, log = train(stopped, resume=True, **DATA[data])
    assert_equal_ends(whole, stopped)
    assert validations(whole) == validations(stopped)
    assert list(validations(whole)) == [6, 12, 18, 24]
    assert "went to batch 13 in" in log
    if "worker" not in data:
        assert len(loaded) <= 12 * 2 + 2 * IMAGES, "half of the batches and of the validations"
        assert loaded == all_loaded[-len(loaded) :]


def test_the_test_can_tell(tmp_path):
    """With MMEngine's hook no random states come back, and the log says so."""
    hook = {"default_hooks.checkpoint.type": "CheckpointHook"}
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    train(whole, **hook)
    train(stopped, stop=7, **hook)
    loaded, log = train(stopped, resume=True, **hook)
    assert "holds no random states of iteration 6" in log
    assert "type='ResumableCheckpointHook'" in log
    assert loaded == train(whole)[0][6 * 2 + IMAGES :], "but the images are right"
    with pytest.raises(AssertionError):
        assert_equal_ends(whole, stopped)


def test_a_seed_of_the_samplers_own_stays(tmp_path):
    """Also with MMEngine's hook, whose checkpoints do not hold it."""
    own = {"train_dataloader.sampler.seed": 77, "default_hooks.checkpoint.type": "CheckpointHook"}
    all_loaded, _ = train(tmp_path / "whole", **own)
    train(tmp_path / "stopped", stop=7, **own)
    loaded, _ = train(tmp_path / "stopped", resume=True, **own)
    assert loaded == all_loaded[-len(loaded) :]
    assert len(loaded) == 18 * 2 + 3 * IMAGES


def test_without_a_seed_the_checkpoints_is_taken(tmp_path):
    train(tmp_path / "stopped", stop=7, **{"randomness.seed": None})
    train(tmp_path / "stopped", resume=True, **{"randomness.seed": None})
    train(tmp_path / "whole", **{"randomness.seed": end(tmp_path / "stopped")["meta"]["seed"]})
    assert_equal_ends(tmp_path / "whole", tmp_path / "stopped")


def test_the_number_of_workers_may_change(tmp_path):
    train(tmp_path / "whole")
    train(tmp_path / "stopped", stop=10, **{"train_dataloader.num_workers": 2})
    train(tmp_path / "stopped", resume=True, **{"train_dataloader.num_workers": 1})
    assert_equal_ends(tmp_path / "whole", tmp_path / "stopped")


def test_validations_begin_and_follow_as_in_mmengines_loop(tmp_path):
    late = {"train_cfg.val_begin": 12, "train_cfg.dynamic_intervals": [(16, 3)]}
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    train(theirs, **late, **{"train_cfg.type": "IterBasedTrainLoop"})
    train(ours, stop=15, in_validation=True, **late)
    train(ours, resume=True, **late)
    assert list(validations(ours)) == list(validations(theirs)) == [12, 15, 18, 21, 24]


def test_a_validation_leaves_no_trace(tmp_path):
    train(tmp_path / "often", **{"train_cfg.val_interval": 2})
    train(tmp_path / "once", **{"train_cfg.val_interval": 1000})
    assert_equal_ends(tmp_path / "often", tmp_path / "once")


@pytest.mark.parametrize("iteration", [12, 24])
def test_a_validation_that_was_cut_off_is_done_again(tmp_path, iteration):
    train(tmp_path / "whole")
    train(tmp_path / "stopped", stop=iteration, in_validation=True)
    assert iteration not in validations(tmp_path / "stopped")
    train(tmp_path / "stopped", resume=True)
    assert validations(tmp_path / "stopped") == validations(tmp_path / "whole")
    assert_equal_ends(tmp_path / "whole", tmp_path / "stopped")
    loaded, _ = train(tmp_path / "stopped", resume=True)
    assert loaded == [], "nothing is left to do"


def test_a_checkpoint_that_save_best_writes_again_is_exact(tmp_path):
    best = {"default_hooks.checkpoint.save_best": "sum", "default_hooks.checkpoint.rule": "less"}
    train(tmp_path / "whole", **best)
    train(tmp_path / "stopped", stop=6, **best)
    assert list((tmp_path / "stopped").glob("best_sum_iter_6.pth"))
    train(tmp_path / "stopped", resume=True, **best)
    assert_equal_ends(tmp_path / "whole", tmp_path / "stopped")


def test_the_best_score_of_a_validation_that_was_done_again_is_kept(tmp_path):
    """The next checkpoint is not reached, so it is in the one before."""
    best = {
        "default_hooks.checkpoint.save_best": "score",
        "default_hooks.checkpoint.rule": "greater",
        "val_evaluator.type": "Falling",
    }
    train(tmp_path, stop=6, in_validation=True, **best)
    train(tmp_path, stop=8, resume=True, **best)
    train(tmp_path, resume=True, **best)
    assert [file.name for file in tmp_path.glob("best*")] == ["best_score_iter_6.pth"]


PLATEAU = {
    "param_scheduler": dict(
        type="ReduceOnPlateauLR", monitor="score", rule="greater", patience=1, factor=0.5
    ),
    "val_evaluator.type": "Falling",
    "train_cfg.val_interval": 3,
}


@pytest.mark.parametrize(
    "after_validation, stops", [(False, (4, 7, 10, 13, 16)), (True, (3, 6, 9, 12, 24))]
)
def test_a_schedule_that_follows_the_validations_is_kept(tmp_path, after_validation, stops):
    """Each validation counts once, also if its end is reached and nothing after it."""
    train(tmp_path / "whole", **PLATEAU)
    assert end(tmp_path / "whole")["optimizer"]["param_groups"][0]["lr"] < 0.002
    for stop in stops:
        train(tmp_path / "stopped", stop, after_validation=after_validation, resume=True, **PLATEAU)
    train(tmp_path / "stopped", resume=True, **PLATEAU)
    assert_equal_ends(tmp_path / "whole", tmp_path / "stopped")
    whole, stopped = end(tmp_path / "whole"), end(tmp_path / "stopped")
    assert whole["param_schedulers"] == stopped["param_schedulers"]


def test_a_schedule_that_follows_the_validations_is_kept_by_epochs(tmp_path):
    """In MMEngine's loop."""
    epochs = {
        **PLATEAU,
        "train_cfg": dict(_delete_=True, type="EpochBasedTrainLoop", max_epochs=4),
        "train_dataloader.sampler.type": "DefaultSampler",
        "default_hooks.checkpoint.by_epoch": True,
        "default_hooks.checkpoint.interval": 1,
    }
    train(tmp_path, **epochs)
    (saved,) = torch.load(tmp_path / "epoch_3.pth", weights_only=False)["param_schedulers"]
    assert saved["last_step"] == 2, "three validations"


def test_another_batch_size_is_explained(tmp_path):
    train(tmp_path, stop=7)
    _, log = train(tmp_path, resume=True, **{"train_dataloader.batch_size": 3})
    assert "was written by 1 processes with batch_size=2, and now there are 1 with" in log
    assert "the first 6 batches of its own sequence" in log


def test_images_are_looked_up_once():
    """Aspect-ratio batches ask for each image's size, which takes a while on a large data set."""
    sampler = AspectRatioBatchSampler(InfiniteSampler(Portraits(pipeline=[])), 2)
    Portraits.looked_up.clear()
    EndlessBatchSampler(sampler, seed=1).skip(200)
    assert sorted(Portraits.looked_up) == list(range(IMAGES))


@pytest.mark.parametrize("number", [0, 1, 11, 12, 40])
@pytest.mark.parametrize("kind", ["aspect ratio", "plain", "own skip"])
def test_skipping_gives_what_drawing_gives(number, kind):
    class OwnSkip(list):
        """As MMEngine's newer InfiniteSampler: it goes to an index by itself."""

        start = 0

        def skip(self, count):
            self.start = count % len(self)

        def __iter__(self):
            start, self.start = self.start, 0
            return itertools.islice(super().__iter__(), start, None)

    class Indices(list):
        dataset = Portraits(pipeline=[])

    indices = random.Random(1).sample(range(IMAGES), IMAGES)[:22]

    def batches():
        if kind == "aspect ratio":
            sampler = AspectRatioBatchSampler.__new__(AspectRatioBatchSampler)
            sampler.sampler, sampler.batch_size, sampler.drop_last = Indices(indices), 2, False
            sampler._aspect_ratio_buckets = [[], []]
        else:
            sampler = BatchSampler((OwnSkip if kind == "own skip" else list)(indices), 2, False)
        return EndlessBatchSampler(sampler, seed=1)

    drawn = list(itertools.islice(iter(batches()), number, number + 15))
    skipped = batches()
    skipped.skip(number)
    found = list(itertools.islice(iter(skipped), 15))
    assert [batch[:] for batch in found] == [batch[:] for batch in drawn]
    assert [batch.key for batch in found] == [batch.key for batch in drawn]


def draw(batch):
    return [(index, random.random(), np.random.rand(), torch.rand(()).item()) for index in batch]


def test_a_batch_seeds_the_generators_and_leaves_them_as_they_were():
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    undisturbed = random.random(), np.random.rand(), torch.rand(()).item()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    first = draw(SeededBatch([4, 4, 7], (0, 0, 9)))
    assert (random.random(), np.random.rand(), torch.rand(()).item()) == undisturbed
    assert first == draw(pickle.loads(pickle.dumps(SeededBatch([4, 4, 7], (0, 0, 9)))))
    others = [draw(SeededBatch([4, 4, 7], key)) for key in ((0, 0, 10), (0, 1, 9), (1, 0, 9))]
    numbers = [number for drawn in (first, *others) for _, *three in drawn for number in three]
    assert len(set(numbers)) == len(numbers) == 4 * 3 * 3


def test_a_batch_is_a_list():
    assert SeededBatch([1, 2], (0,)) == [1, 2]
    assert len(SeededBatch([1, 2], (0,))) == 2


def test_an_epoch_without_a_batch_is_no_endless_loop():
    sampler = EndlessBatchSampler(BatchSampler([0], 2, drop_last=True), seed=0)
    with pytest.raises(ValueError, match="an epoch .* has no batch.*drop_last"):
        next(iter(sampler))


def test_a_stream_of_images_is_refused(tmp_path):
    loader = dict(
        _delete_=True, batch_size=2, num_workers=0, dataset=dict(type="Stream"), sampler=None
    )
    runner = Runner.from_cfg(config(tmp_path, train_dataloader=loader))
    with pytest.raises(TypeError, match="a data set with __getitem__.*IterBasedTrainLoop"):
        runner.train()


def damaged(path, how):
    content = bytearray(path.read_bytes())
    if how == "cut off":
        del content[len(content) // 2 :]
    elif how == "another byte":
        content[len(content) // 3] ^= 255
    else:
        content[:] = bytes(len(content) if how == "zeros" else 0)
    path.write_bytes(content)


@pytest.mark.parametrize("how", ["cut off", "another byte", "zeros", "empty"])
def test_a_damaged_checkpoint_is_said_and_the_one_before_is_taken(tmp_path, how):
    train(tmp_path / "whole")
    work_dir = tmp_path / "stopped"
    train(work_dir, stop=10)
    damaged(work_dir / "iter_9.pth", how)
    _, log = train(work_dir, resume=True)
    assert f"{work_dir}/iter_9.pth is damaged" in log
    assert f"The training goes on from {work_dir}/iter_6.pth" in log
    assert_equal_ends(tmp_path / "whole", work_dir)


def test_a_damaged_checkpoint_that_was_named_is_refused(tmp_path):
    train(tmp_path, stop=10)
    damaged(tmp_path / "iter_9.pth", "another byte")
    path = str(tmp_path / "iter_9.pth")
    with pytest.raises(RuntimeError, match="iter_9.pth is damaged.*newest whole one is .*iter_6"):
        train(tmp_path, resume=True, load_from=path)


def test_no_whole_checkpoint_is_no_fresh_start(tmp_path):
    train(tmp_path, stop=7)
    for path in tmp_path.glob("*.pth"):
        damaged(path, "cut off")
    with pytest.raises(RuntimeError, match="iter_6.pth is damaged.*iter_3.pth is damaged"):
        train(tmp_path, resume=True)


@pytest.mark.parametrize("last", [None, "", "/moved/from/here/iter_6.pth"])
def test_last_checkpoint_may_be_missing_empty_or_of_another_place(tmp_path, last):
    train(tmp_path, stop=7)
    (tmp_path / "last_checkpoint").unlink()
    if last is not None:
        (tmp_path / "last_checkpoint").write_text(last)
    assert "went to batch 7" in train(tmp_path, resume=True)[1]


def test_a_resume_with_nothing_to_resume_from_starts(tmp_path):
    train(tmp_path / "whole")
    train(tmp_path / "new", resume=True)
    assert_equal_ends(tmp_path / "whole", tmp_path / "new")


def test_checkpoints_of_an_earlier_training_in_the_folder_are_not_taken(tmp_path):
    train(tmp_path, stop=20)
    train(tmp_path, stop=7)
    assert "went to batch 7" in train(tmp_path, resume=True, stop=9)[1]


def test_a_disk_that_is_full_takes_no_checkpoint_away(tmp_path):
    """An older one is deleted when the newer one is complete."""
    one = {"default_hooks.checkpoint.max_keep_ckpts": 1}
    train(tmp_path, stop=4, **one)
    size = (tmp_path / "iter_3.pth").stat().st_size
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, limits[1]))
    try:
        with pytest.raises(OSError):
            train(tmp_path, resume=True, **one)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    files = {file.name for file in tmp_path.iterdir() if file.is_file()}
    assert {file for file in files if ".pth" in file} == {"iter_3.pth"}
    train(tmp_path, resume=True, **one)
    assert [file.name for file in tmp_path.glob("*.pth")] == ["iter_24.pth"]


def test_what_a_killed_process_left_is_removed(tmp_path):
    train(tmp_path, stop=4)
    for name in (".iter_6.pth.abcd1234", ".last_checkpoint.a_cd1234"):
        (tmp_path / name).write_text("half")
    (tmp_path / ".mine.pth").write_text("not ours")
    train(tmp_path, resume=True)
    assert [file.name for file in tmp_path.glob(".*")] == [".mine.pth"]

"""A study: a grid of methods and seeds, as a YAML file describes it, and its jobs."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mmengine
import orjson
from mmengine.config import Config

from ..engine.command_line import make_parser
from ..utils import file_digest, write_atomically
from .runs import InputError, load_config, metrics_of
from .training_config import other_settings, seed_of

DEFAULTS = dict(seeds=[0], processes=1, options={}, record_gradients=None, protocols={}, compare=[])
REQUIRED = {"train_ann", "val_ann", "methods"}
METHOD_KEYS = {"name", "config", "seeds", "options"}
#: What a report calls its parts; a protocol has another name.
AS_TESTED, GRADIENTS, COMPARISON = "as tested", "gradients", "comparison"


class StudyError(ValueError):
    """Something that the user can put right; the message says how."""


@dataclass(frozen=True, eq=False)
class Job:
    """One training and its test.

    Args:
        name: The method's name.
        seed: The seed of the training.
        config: Its config file.
        folder: Its work dir.
        options: What differs from the config, by dotted key.
        processes: How many processes train and test.
        record_gradients: Iterations in a stage of the gradient record; None for no record.
        annotations: ``train_ann`` and ``val_ann`` of the study.
    """

    name: str
    seed: int
    config: Path
    folder: Path
    options: dict[str, Any]
    processes: int
    record_gradients: int | None
    annotations: dict[str, str]

    @property
    def title(self) -> str:
        """For status lines."""
        return f"{self.name}, seed {self.seed}"

    @property
    def metrics_file(self) -> Path:
        """What a test writes last."""
        return self.folder / "val.metrics.json"

    @functools.cached_property
    def settings(self) -> Config:
        """The config with the options, as it trains."""
        cfg = Config.fromfile(self.config, import_custom_modules=False)
        cfg.merge_from_dict({**self.options, "randomness.seed": self.seed})
        return cfg

    def length(self) -> tuple[str, int]:
        """``('iter', N)`` or ``('epoch', N)``: how long it trains."""
        if "max_iters" in self.settings.train_cfg:
            return "iter", self.settings.train_cfg.max_iters
        return "epoch", self.settings.train_cfg.max_epochs

    def checkpoint(self) -> Path:
        """The last one."""
        kind, number = self.length()
        return self.folder / f"{kind}_{number}.pth"

    def is_trained(self) -> bool:
        """Whether the last checkpoint is complete: ``last_checkpoint`` is written after it."""
        pointer = self.folder / "last_checkpoint"
        checkpoint = self.checkpoint()
        return (
            checkpoint.is_file()
            and pointer.is_file()
            and Path(pointer.read_text()).name == checkpoint.name
        )

    def is_done(self) -> bool:
        """Whether it is tested on what is in ``val_ann``. The checkpoint may have been deleted."""
        if not self.metrics_file.is_file() or self.stale():
            return False
        checkpoint = self.checkpoint()
        written = self.metrics_file.stat().st_mtime_ns
        return not checkpoint.is_file() or written > checkpoint.stat().st_mtime_ns

    def stale(self) -> str | None:
        """Why its numbers are broken or not of ``val_ann``; earlier versions' are believed."""
        if not self.metrics_file.is_file():
            return None
        try:
            of = metrics_of(self.metrics_file).annotations
        except InputError as error:
            return f"{self.title}: {error}"
        val_ann = self.annotations["val_ann"]
        if of is None or of.sha256 == content_of(val_ann, sha256_of):
            return None
        return (
            f"{self.title}: {self.metrics_file} is of {of.file} (sha256 {of.sha256[:8]}...), not "
            f"of val_ann {val_ann} as it is now; it has to be tested again, and if that changes "
            f"nothing, test_evaluator and val_ann have to name the same file"
        )

    def stamp(self) -> dict[str, Any]:
        """What its training depends on; what its test does, :meth:`stale` looks at."""
        return {
            "config": self.config.name,
            "options": self.options,
            "seed": self.seed,
            "processes": self.processes,
            "digest of the settings": digest_of(self.settings.to_dict()),
            "content of train_ann": content_of(self.annotations["train_ann"]),
        }

    def begin(self) -> None:
        """Make the folder, and note there what its training depends on."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self.folder / "job.json", orjson.dumps(self.stamp()))

    def conflict(self) -> str | None:
        """Why what the folder holds is not of this job: it was begun with other settings.

        A folder without :meth:`begin`'s note, as commands run by hand leave it, or with that of an
        earlier version, which had no digest of the settings but of MMEngine's text of them, is
        judged by the config that its training left.
        """
        note = self.folder / "job.json"
        try:
            there = orjson.loads(note.read_bytes()) if note.is_file() else {}
        except orjson.JSONDecodeError as error:
            return (
                f"{self.title}: {note} cannot be read: {error}; delete it, and the folder is "
                f"judged by the config of its training"
            )
        different = [key for key, value in self.stamp().items() if there.get(key, value) != value]
        if different:
            return (
                f"{self.title}: {self.folder} was begun with another "
                f"{' and another '.join(different)} ({note}); give another --work-dir, or delete "
                f"the folder"
            )
        return None if "digest of the settings" in there else self._conflict_of_training()

    def _conflict_of_training(self) -> str | None:
        try:
            trained = load_config(self.folder)
        except InputError as error:
            return f"{self.title}: {error}"
        if trained is None:
            return None
        different = other_settings(trained, self.settings)
        if seed_of(trained) != self.seed:
            different["randomness.seed"] = (seed_of(trained), self.seed)
        for key, (there, here) in different.items():
            more = f", and {len(different) - 1} settings more" * (len(different) > 1)
            return (
                f"{self.title}: {self.folder} was trained with {key} {there!r}, but the study has "
                f"{here!r}{more}; give another --work-dir, or delete the folder"
            )
        return None

    def commands(self, tools: Path) -> list[list[str]]:
        """The training and the test, by the programs in a folder."""
        values = {**self.options, "randomness.seed": self.seed}
        options = ["--cfg-options", *(f"{key}={as_text(value)}" for key, value in values.items())]
        work_dir, processes = str(self.folder), str(self.processes)
        record = []
        if self.record_gradients is not None:
            record = ["--record-gradients", str(self.record_gradients)]
        train = [str(self.config), "--work-dir", work_dir, "--resume", *record, *options]
        test = [
            *(str(self.config), str(self.checkpoint()), "--work-dir", f"{work_dir}/test"),
            *("--results", f"{work_dir}/val", *options),
        ]
        if self.processes == 1:
            return [
                ["python", str(tools / "train.py"), *train],
                ["python", str(tools / "test.py"), *test],
            ]
        test.insert(2, processes)
        return [
            ["bash", str(tools / "dist_train.sh"), train[0], processes, *train[1:]],
            ["bash", str(tools / "dist_test.sh"), *test],
        ]

    def commands_left(self, tools: Path) -> list[list[str]]:
        """Those that are not done: of one that is trained, the test."""
        return self.commands(tools)[1 if self.is_trained() else 0 :]


def digest_of(settings: Any) -> str:
    """A digest of a config's values, whatever the order of its keys and the text of its dump."""
    option = orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS
    return hashlib.sha256(orjson.dumps(settings, default=str, option=option)).hexdigest()


def content_of(file: str, digest: Callable[[str], str] = file_digest) -> str:
    """A digest of a file's content."""
    stat = Path(file).stat()
    return _digest(digest, file, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache
def _digest(digest: Callable[[str], str], file: str, size: int, time: int) -> str:
    """Once as long as the file is not written: every job asks several times, LVIS is large."""
    return digest(file)


def sha256_of(file: str) -> str:
    """As a test notes it of its annotations."""
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()


def as_text(value: Any) -> str:
    """A value as ``--cfg-options`` reads it, if :func:`check_options` has let it pass."""
    if isinstance(value, list):
        return "[" + ",".join(as_text(item) for item in value) + "]"
    return str(value)


def as_read(key: str, value: Any) -> dict[str, Any] | None:
    """What the command line of a job makes of an option; None if it refuses it."""
    arguments = ["CONFIG", "--cfg-options", f"{key}={as_text(value)}"]
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # the usage of another program
            return make_parser(None).parse_args(arguments).cfg_options
    except SystemExit:
        return None


def check_options(options: Any, where: str) -> None:
    """Refuse options that would not reach the training as they stand in the study file.

    Raises:
        StudyError: If they are no mapping, or a command line changes a key or a value.
    """
    if not isinstance(options, dict):
        raise StudyError(f"{where}: options must be a mapping, but it is {options!r}")
    for key, value in options.items():
        read = as_read(key, value)
        if repr(read) != repr({key: value}):  # as text: 1, 1.0 and True are equal
            fate = "is refused" if read is None else f"becomes {read}"
            raise StudyError(
                f"{where}: the option {key}: {value!r} {fate} by way of --cfg-options. Write a "
                f"value that stays as it is (a number without quotes, 1.0e-3 for 1e-3, a list for "
                f"commas), or set it in a config of the method's own"
            )


@dataclass(frozen=True)
class Study:
    """What a study file says."""

    train_ann: str
    val_ann: str
    jobs: list[Job] = field(repr=False)
    protocols: dict[str, str]
    compare: list[str]


def load_study(file: Path, work_dir: Path) -> Study:
    """Read a study file.

    Raises:
        StudyError: If it lacks a key, has an unknown one, a value of another kind than its key
            takes or an option that no command line can pass on, names a file that is not there,
            or has a config that cannot be read.
    """
    try:
        content = mmengine.load(file, file_format="yaml")
    except FileNotFoundError:
        raise StudyError(f"{file} does not exist") from None
    except Exception as error:  # YAML's own errors
        raise StudyError(f"{file} is not valid YAML: {error}") from None
    check_keys(content, REQUIRED, REQUIRED | DEFAULTS.keys(), str(file))
    content = {**DEFAULTS, **content}
    check_values(content, str(file))
    check_options(content["options"], str(file))
    if not isinstance(content["methods"], list) or not content["methods"]:
        raise StudyError(f"{file}: methods must be a list with a name and a config each")
    jobs = [
        job
        for number, method in enumerate(content["methods"])
        for job in jobs_of(method, content, file, work_dir, f"{file}: methods[{number}]")
    ]
    for job in jobs:
        check_config(job, file)
    folders = [job.folder for job in jobs]
    twice = [job.title for job in jobs if folders.count(job.folder) > 1]
    if twice:
        raise StudyError(f"{file}: there are two jobs {twice[0]!r}; give methods different names")
    for key, path in [
        *((key, content[key]) for key in ("train_ann", "val_ann")),
        *(("protocols", path) for path in content["protocols"].values()),
    ]:
        if not Path(path).is_file():
            raise StudyError(f"{file}: {key} {path} does not exist")
    names = {job.name for job in jobs}
    for name in content["compare"]:
        if name not in names:
            raise StudyError(f"{file}: compare has {name!r}, which is the name of no method")
    return Study(
        content["train_ann"], content["val_ann"], jobs, content["protocols"], content["compare"]
    )


def check_keys(content: Any, required: set[str], known: set[str], where: str) -> None:
    """Refuse a mapping that lacks a key, or has one that nothing reads."""
    if not isinstance(content, dict):
        raise StudyError(f"{where} must be a mapping, but it is {content!r}")
    for key in sorted(required - content.keys()):
        raise StudyError(f"{where} has no {key}")
    for key in content.keys() - known:
        raise StudyError(f"{where} has {key!r}, which means nothing; known: {sorted(known)}")


def check_values(content: dict[str, Any], where: str) -> None:
    """Refuse values of another kind than their keys take, and names that cannot be a folder's."""
    for key in ("train_ann", "val_ann"):
        check_text(content[key], f"{where}: {key}")
    processes, stage = content["processes"], content["record_gradients"]
    if type(processes) is not int or processes < 1:
        raise StudyError(f"{where}: processes must be a whole number >= 1, but it is {processes!r}")
    if stage is not None and (type(stage) is not int or stage < 1):
        raise StudyError(
            f"{where}: record_gradients must be a whole number >= 1, but it is {stage!r}"
        )
    if not isinstance(content["compare"], list):
        raise StudyError(
            f"{where}: compare must be a list of methods' names, but it is {content['compare']!r}"
        )
    for name in content["compare"]:
        check_text(name, f"{where}: compare")
    if not isinstance(content["protocols"], dict):
        raise StudyError(
            f"{where}: protocols must be a mapping of names to annotation files, but it is "
            f"{content['protocols']!r}"
        )
    for name, path in content["protocols"].items():
        check_text(name, f"{where}: the name of a protocol")
        check_text(path, f"{where}: protocols, {name!r}")
        if not re.fullmatch(r"[^./\\][^/\\]*", name) or name in (AS_TESTED, GRADIENTS, COMPARISON):
            raise StudyError(
                f"{where}: a protocol cannot be called {name!r}: it names a folder of the report, "
                f"beside {AS_TESTED!r}, {GRADIENTS!r} and {COMPARISON!r}; give it another name"
            )


def check_text(value: Any, what: str) -> None:
    """Refuse what YAML does not read as text, such as the name 0.5."""
    if not isinstance(value, str):
        raise StudyError(f"{what} must be text, but it is {value!r}; put it in quotes")


def jobs_of(method: Any, content: dict, file: Path, work_dir: Path, where: str) -> list[Job]:
    """A job for each seed of a method."""
    check_keys(method, {"name", "config"}, METHOD_KEYS, where)
    for key in ("name", "config"):
        check_text(method[key], f"{where}: {key}")
    if not folder_name(method["name"]):
        raise StudyError(
            f"{where}: name is {method['name']!r}, of which no folder can be named; give a letter "
            f"or digit"
        )
    config = file.parent / method["config"]
    if not config.is_file():
        raise StudyError(f"{where}: {config} does not exist; configs are looked for beside {file}")
    seeds = method.get("seeds", content["seeds"])
    if not isinstance(seeds, list) or not all(type(seed) is int for seed in seeds) or not seeds:
        raise StudyError(f"{where}: seeds must be a list of whole numbers, but it is {seeds!r}")
    own = method.get("options", {})
    check_options(own, f"{where}, {method['name']!r}")
    options = {**content["options"], **own}
    return [
        Job(
            method["name"],
            seed,
            config,
            work_dir / folder_name(method["name"]) / f"seed_{seed}",
            options,
            content["processes"],
            content["record_gradients"],
            {key: content[key] for key in ("train_ann", "val_ann")},
        )
        for seed in seeds
    ]


def check_config(job: Job, file: Path) -> None:
    """Refuse a config that cannot be read, or that the options do not fit.

    Now, and not when the jobs before it are trained.
    """
    try:
        job.length()
    except Exception as error:  # a config is a program: anything can happen in it
        raise StudyError(
            f"{file}: {job.name!r} cannot be trained by {job.config} with the options "
            f"{job.options}: {type(error).__name__}: {error}. Correct them"
        ) from None


def folder_name(method: str) -> str:
    """The folder of a method in a work dir: its name without what a path cannot have."""
    return re.sub(r"[^A-Za-z0-9.]+", "_", method).strip("_").lower()

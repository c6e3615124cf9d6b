r"""Train and test a grid of configs and seeds, then write tables, figures and one report.

A study file in YAML says what is compared:

    train_ann: data/mine/train.json
    val_ann: data/mine/val.json
    seeds: [0, 1, 2]
    methods:
      - {name: sigmoid BCE, config: my_sigmoid.py}
      - {name: DropLoss, config: my_droploss.py}

Configs are looked for beside the study file. `configs/mini_lvis/study.yml` has all keys, with
comments. A job is one method with one seed: a training and its test. It can be stopped at any time;
the same command goes on where it was, and skips what is done.

Examples:
    python tools/study.py my_study.yml --work-dir work_dirs/study
    python tools/study.py my_study.yml --work-dir work_dirs/study --only "DropLoss*"
    python tools/study.py my_study.yml --work-dir work_dirs/study --print     # the commands
    python tools/study.py my_study.yml --work-dir work_dirs/study --slurm gpu # submit what is left
    python tools/study.py my_study.yml --work-dir work_dirs/study --report    # of what is done

The report is WORK_DIR/my_study_report/report.md, by the name of the study file.
"""  # noqa: D214, D405, D411  (the YAML's "methods:" is no section of the docstring)

from __future__ import annotations

import argparse
import contextlib
import fcntl
import fnmatch
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mmdet_droploss  # noqa: F401  (before mmdet, which a config may import)
from mmdet_droploss.analysis.protocols import evaluate_again
from mmdet_droploss.analysis.study import (
    AS_TESTED,
    COMPARISON,
    GRADIENTS,
    Job,
    Study,
    StudyError,
    load_study,
)
from mmdet_droploss.annotations import load_class_frequency
from mmdet_droploss.engine.gradient_record import load_gradient_record
from mmdet_droploss.utils import write_atomically

TOOLS = Path(os.path.relpath(Path(__file__).resolve().parent))
STATUS_SECONDS = 60


# ---- jobs ----------------------------------------------------------------------------------------


class Runner:
    """Runs jobs as programs, some at once, and says how far they are."""

    def __init__(self, jobs: Sequence[Job], say: Callable[[str], None]) -> None:
        self.jobs = jobs
        self.say = say
        self.failed: list[str] = []
        self._running: dict[Job, subprocess.Popen] = {}
        self._stopped = False
        self._starting = threading.Lock()

    def run(self, at_once: int) -> None:
        """All jobs, ``at_once`` at a time."""
        with ThreadPoolExecutor(at_once) as pool:
            futures = [pool.submit(self._run, job) for job in self.jobs]
            try:
                while not all(future.done() for future in futures):
                    self._wait(futures)
                for future in futures:
                    future.result()
            except KeyboardInterrupt:
                with self._starting:
                    self._stopped = True
                    for process in list(self._running.values()):
                        with contextlib.suppress(ProcessLookupError):  # it has just ended
                            os.killpg(process.pid, signal.SIGTERM)
                raise

    def _wait(self, futures: Sequence) -> None:
        end = time.monotonic() + STATUS_SECONDS
        while time.monotonic() < end and not all(future.done() for future in futures):
            time.sleep(0.5)
        for job in list(self._running):
            self.say(f"{job.title}: {progress(job)}")

    def _run(self, job: Job) -> None:
        number = f"[{self.jobs.index(job) + 1}/{len(self.jobs)}] {job.title}"
        if self._stopped:
            return
        trouble = job.conflict()
        if trouble is None and job.is_done():
            self.say(f"{number}: done already")
            return
        job.folder.mkdir(parents=True, exist_ok=True)
        with open(job.folder / "job.lock", "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self.failed.append(busy(job))
                return
            begin = time.monotonic()
            if trouble is None:
                if sentence := job.stale():
                    self.say(sentence)
                job.begin()
                self.say(f"{number}: {progress(job)}; log {job.folder / 'job.log'}")
                trouble = self._run_commands(job, lock.fileno())
        if trouble is not None:
            self.failed.append(trouble)
            self.say(f"{number}: FAILED, {trouble}")
        elif not self._stopped:
            self.say(f"{number}: done in {(time.monotonic() - begin) / 60:.1f} min")

    def _run_commands(self, job: Job, lock: int) -> str | None:
        for command in job.commands_left(TOOLS):
            command = [sys.executable if part == "python" else part for part in command]
            with open(job.folder / "job.log", "a") as log:
                with self._starting:
                    if self._stopped:  # while the config was read
                        return None
                    # It has the lock, too: if this program is killed, the job goes on, locked.
                    process = subprocess.Popen(
                        command, stdout=log, stderr=log, start_new_session=True, pass_fds=[lock]
                    )
                    self._running[job] = process
                code = process.wait()
                del self._running[job]
            if self._stopped:
                return None
            if code:
                last = (job.folder / "job.log").read_text(errors="replace").strip().splitlines()
                return f"{job.title} ended with exit status {code}: {last[-1] if last else ''}"
        if job.is_done():
            return None
        return job.stale() or f"{job.title} ended without {job.metrics_file}"


def busy(job: Job) -> str:
    """What is said of a job whose lock another process holds."""
    return f"{job.title} is running in another process: {job.folder}"


def progress(job: Job) -> str:
    """How far a job is, by the log of its training."""
    kind, number = job.length()
    if job.is_trained():
        return "testing"
    logs = sorted(job.folder.glob("*/vis_data/scalars.json"))
    # Of epochs, a step is one of their iterations. Of iterations, the largest: a validation may
    # stand there with an epoch's number.
    what, key = ("iteration", "step") if kind == "iter" else ("epoch", "epoch")
    found = re.findall(rf'"{key}": (\d+)', logs[-1].read_text()[-2000:]) if logs else []
    return f"training, {what} {max(map(int, found), default=0)} of {number}"


def submit(job: Job, partition: str) -> None:
    """Hand a job to Slurm: a machine with a GPU for each process."""
    script = (
        f"exec 9> {shlex.quote(str(job.folder / 'job.lock'))}\n"
        f"flock --nonblock 9 || {{ echo {shlex.quote(busy(job))} >&2; exit 1; }}\n"
        + " && ".join(shlex.join(command) for command in job.commands_left(TOOLS))
    )
    job.begin()
    name = f"{job.folder.parent.name}_{job.folder.name}"
    command = [
        # singleton: of two submissions of one job, the later waits for the earlier.
        *("sbatch", f"--partition={partition}", f"--job-name={name}", "--dependency=singleton"),
        *(f"--gres=gpu:{job.processes}", f"--output={job.folder / 'job.log'}"),
        *("--open-mode=append", f"--wrap={script}"),
    ]
    try:
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    except FileNotFoundError:
        raise StudyError("sbatch is not installed; --print gives the commands") from None
    if done.returncode:
        raise StudyError(f"{job.title} was not submitted: {done.stderr.strip()}")


# ---- the report ----------------------------------------------------------------------------------


def write_report(study: Study, out: Path) -> list[str]:
    """Tables and figures of the jobs that are done.

    Args:
        study: What was run.
        out: The folder of the report, in the work dir.

    Returns:
        What is missing, as sentences.
    """
    conflicts = {job: sentence for job in study.jobs if (sentence := job.conflict())}
    done = [job for job in study.jobs if job.is_done() and job not in conflicts]
    missing = [
        conflicts.get(job) or job.stale() or f"{job.title} is not done: {job.folder}"
        for job in study.jobs
        if job not in done
    ]
    if not done:
        (out / "report.md").unlink(missing_ok=True)  # an earlier one is not true any more
        return missing
    text = []
    for title, folders in folders_by_protocol(study, done, out.parent, missing).items():
        text += ["", f"## Validation: {title}", ""]
        text += tables_and_figures(folders, out, out / title, missing)
    text += ["", "## Gradients", ""]
    text += gradient_figures(study, done, out / GRADIENTS, missing)
    text += comparison(study, done, out / COMPARISON, missing)
    head = ["# Study", "", f"{len(done)} of {len(study.jobs)} jobs are done.", ""]
    head += [f"- {sentence}" for sentence in missing]
    write_atomically(out / "report.md", "\n".join([*head, *text]) + "\n")
    print(f"report: {out / 'report.md'}")
    return missing


def folders_by_protocol(
    study: Study, done: Sequence[Job], work_dir: Path, missing: list[str]
) -> dict[str, list[tuple[str, Path]]]:
    """Names and folders of the results by each protocol; the first are those of the tests."""
    found = {AS_TESTED: [(job.name, job.folder) for job in done]}
    for title, ann_file in study.protocols.items():
        found[title] = []
        for job in done:
            target = work_dir / "protocols" / title / job.folder.relative_to(work_dir)
            try:
                evaluate_again(job.folder, Path(ann_file), study.train_ann, target)
            except (ValueError, OSError) as error:
                missing.append(f"{job.title} by {ann_file}: {error}")
            else:
                found[title].append((job.name, target))
    return found


def tables_and_figures(
    folders: Sequence[tuple[str, Path]], out: Path, target: Path, missing: list[str]
) -> list[str]:
    """The tables, and links to Figures 2 and 3."""
    make_empty(target)
    if not folders:
        return ["No results."]
    arguments = [f"--run={name}={folder}" for name, folder in folders]
    has_masks = any(b'"segm_AP"' in (f / "val.metrics.json").read_bytes() for _, f in folders)
    arguments += ["--iou-type", "segm" if has_masks else "bbox", "--out", str(target)]
    for program in ("paper_tables", "tradeoff_figures"):
        missing += run_tool(program, arguments)
    tables = target / "tables.md"
    text = [tables.read_text()] if tables.is_file() else []
    return text + [f"![{f.stem}](<{f.relative_to(out)}>)" for f in sorted(target.glob("*.png"))]


def make_empty(folder: Path) -> None:
    """A folder without the files of an earlier report, which was of other jobs."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)


def gradient_figures(
    study: Study, done: Sequence[Job], target: Path, missing: list[str]
) -> list[str]:
    """Links to Figure 1 of each job that has recorded its gradients."""
    # matplotlib takes a second to import, and only the report needs it.
    from mmdet_droploss.analysis.figures import write_figure
    from mmdet_droploss.analysis.gradient_figure import draw_gradient_figure, gradient_table

    make_empty(target)
    frequency = load_class_frequency(study.train_ann)
    text = []
    for job in done:
        file = job.folder / "category_gradients.npz"
        if file.is_file():
            name = f"{job.folder.parent.name}_{job.folder.name}"
            try:
                record = load_gradient_record(file).with_frequency(frequency)
                write_figure(draw_gradient_figure(record), target / name)
                table = gradient_table(record)
            except ValueError as error:
                missing.append(f"{job.title}: {error}")
            else:
                text += [f"![{job.title}]({target.name}/{name}.png)", "", table, ""]
    return text or ["Not recorded: record_gradients in the study file does."]


def comparison(study: Study, done: Sequence[Job], out: Path, missing: list[str]) -> list[str]:
    """A link to the comparison of the methods that the study names for it."""
    if out.exists():
        shutil.rmtree(out)  # of an earlier report, perhaps of other jobs
    compared = sorted(
        (job for job in done if job.name in study.compare),
        key=lambda job: study.compare.index(job.name),  # the first is the baseline
    )
    if len({job.name for job in compared}) < 2:
        return []
    runs = [f"--run={job.name}={job.folder}" for job in compared]
    files = ["--ann", study.val_ann, "--train-ann", study.train_ann]
    trouble = run_tool("compare_runs", [*runs, *files, "--out", str(out)])
    missing += trouble
    return (
        [] if trouble else ["", f"[Comparison with intervals and pictures]({out.name}/report.html)"]
    )


def run_tool(program: str, arguments: list[str]) -> list[str]:
    """Run one of tools/analysis_tools; what it could not do, as sentences."""
    script = TOOLS / "analysis_tools" / f"{program}.py"
    done = subprocess.run([sys.executable, str(script), *arguments], capture_output=True, text=True)
    return [] if done.returncode == 0 else [f"{program}.py: {done.stderr.strip()}"]


# ---- the command line ----------------------------------------------------------------------------


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study", type=Path, metavar="STUDY.yml", help="what is compared")
    parser.add_argument("--work-dir", type=Path, required=True, help="where everything goes")
    parser.add_argument("--only", default="*", metavar="GLOB", help="jobs of these methods only")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="how many at once (1)")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--print", action="store_true", help="print the commands of what is left")
    how.add_argument("--slurm", metavar="PARTITION", help="submit what is left with sbatch")
    how.add_argument("--report", action="store_true", help="only the report, of what is done")
    args = parser.parse_args(argv)
    if args.jobs < 1:
        parser.error(f"--jobs must be at least 1, but it is {args.jobs}")
    return args


def say(text: str) -> None:
    """A status line."""
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the study; returns the exit status."""
    args = parse_args(argv)
    try:
        study = load_study(args.study, args.work_dir)
        jobs = [job for job in study.jobs if fnmatch.fnmatch(job.name, args.only)]
        if not jobs:
            raise StudyError(f"--only {args.only!r} is the name of no method")
        if args.print or args.slurm:
            for job in jobs:
                if (conflict := job.conflict()) is not None:
                    raise StudyError(conflict)
                if job.is_done():
                    continue
                if args.print:
                    print(f"# {job.title}", *map(shlex.join, job.commands_left(TOOLS)), sep="\n")
                else:
                    submit(job, args.slurm)
            return 0
        failed: list[str] = []
        if not args.report:
            runner = Runner(jobs, say)
            runner.run(args.jobs)
            failed = runner.failed
        failed += write_report(study, args.work_dir / f"{args.study.stem}_report")
    except StudyError as error:
        sys.exit(f"study.py: error: {error}")
    except KeyboardInterrupt:
        print("\nstudy.py: stopped; the same command goes on where it was", file=sys.stderr)
        return 130
    for sentence in dict.fromkeys(failed):  # a job may be said to fail by the run and the report
        print(f"study.py: {sentence}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # it stops the jobs as Ctrl-C does
    sys.exit(main())

"""tools/setup_env.sh and its callers, run for real against a pip that only pretends.

The stand-in Python runs everything with the real one, but without its site-packages: what counts
as installed is what the stand-in pip has put into a folder. So each path through the script, the
failures among them, takes a second and needs no network.
"""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BASH = shutil.which("bash")
pytestmark = pytest.mark.skipif(BASH is None, reason="needs bash")

STAND_IN_PYTHON = """\
#!{bash}
state={state}
if [[ ${{1:-}} == -m && $2 == pip ]]; then
    [[ $3 == --version ]] || exec {python} -S {state}/pip.py "${{@:3}}"
elif [[ ${{1:-}} == -m && $2 == venv ]]; then
    echo "venv ${{@:3}}" >>"$state/calls"
    mkdir -p "${{@: -1}}/bin"
    cp "$0" "${{@: -1}}/bin/python"
    touch "${{@: -1}}/pyvenv.cfg"
else
    PYTHONPATH="$state/site" exec {python} -S "$@"
fi
"""

# Installs a distribution by making a module and its metadata. The environment variables say what
# goes wrong: an old wheel in the cache, no screen, a step that fails.
STAND_IN_PIP = """\
import os, pathlib, re, shutil, sys

arguments = sys.argv[1:]
state = pathlib.Path(__file__).parent
site = state / "site"
with open(state / "calls", "a") as calls:
    print(*arguments, file=calls)
if os.environ.get("FAIL_ON", "no such name") in " ".join(arguments):
    sys.exit("pip: failed as told to")
MODULES = {
    "opencv-python": "cv2",
    "opencv-python-headless": "cv2",
    "onedl-mmengine": "mmengine",
    "onedl-mmcv": "mmcv",
    "onedl-mmdetection": "mmdet",
}


def put(name, version):
    module = site / MODULES.get(name, name.replace("-", "_"))
    module.mkdir(parents=True, exist_ok=True)
    text = f"__version__ = {version!r}\\n"
    if name == "opencv-python" and "NO_SCREEN" in os.environ:
        text = "raise ImportError('libGL.so.1: cannot open shared object file')\\n"
    (module / "__init__.py").write_text(text)
    if name in ("mmcv", "onedl-mmcv"):
        stale = "STALE_CACHE" in os.environ and "--no-cache-dir" not in arguments
        text = "raise ImportError('undefined symbol: _ZN3c10')\\n" if stale else ""
        (module / "_ext.py").write_text(text)
    shutil.rmtree(module / "__pycache__", ignore_errors=True)
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n")


names = [a for a in arguments[1:] if not a.startswith("-") and a not in ("mmcv", "onedl-mmcv")]
if arguments[0] == "uninstall":
    for name in names:
        for info in site.glob(f"{name.replace('-', '_')}-*.dist-info"):
            shutil.rmtree(info)
elif "--editable" in arguments:
    put("mmdet_droploss", "0.1.0")
else:
    for spec in names:
        name, version = re.match(r"([\\w-]+)(?:[=<>]+([\\w.]+))?", spec).groups()
        put(name, version or "1.0")
        if name in ("mmengine", "onedl-mmengine"):  # require it
            put("opencv-python", "4.9.0.80")
"""


class Sandbox:
    """A repository with nothing but what the script reads, and a Python that installs nothing."""

    def __init__(self, folder: Path):
        self.root = folder / "repository"
        self.state = folder / "state"
        self.site = self.state / "site"
        self.site.mkdir(parents=True)
        (self.root / "tools").mkdir(parents=True)
        for name in ("setup.cfg", "setup.py", "tools/setup_env.sh"):
            shutil.copy(ROOT / name, self.root / name)
        (self.state / "pip.py").write_text(STAND_IN_PIP)
        self.calls_file = self.state / "calls"
        self.calls_file.touch()
        self.python = self._write_python(self.state / "python")
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "PYTHON": str(self.python),
            "CXX": "true",  # the compiler is never called here, but it has to exist
            "SETUP_PROGRESS_SECONDS": "2",
        }

    def _write_python(self, path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        values = {
            "bash": BASH,
            "state": shlex.quote(str(self.state)),
            "python": shlex.quote(sys.executable),
        }
        path.write_text(STAND_IN_PYTHON.format(**values))
        path.chmod(0o755)
        return path

    def run(self, *options: str, **env: str) -> subprocess.CompletedProcess:
        return self.bash('bash tools/setup_env.sh "$@"', *options, **env)

    def bash(self, code: str, *arguments: str, **env: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [BASH, "-c", code, "bash", *arguments],
            cwd=self.root,
            env={**self.env, **env},
            capture_output=True,
            text=True,
            timeout=120,
        )

    def calls(self) -> list[str]:
        """What pip and venv were asked for since the last time."""
        calls = self.calls_file.read_text().splitlines()
        self.calls_file.write_text("")
        return calls

    def user_environment(self, *specs: str) -> Path:
        """An environment of the user's own, with these distributions in it."""
        prefix = self.state.parent / "users_own"
        self._write_python(prefix / "bin" / "python")
        subprocess.run([prefix / "bin" / "python", "-m", "pip", "install", *specs], check=True)
        self.calls()
        return prefix


@pytest.fixture
def sandbox(tmp_path):
    return Sandbox(tmp_path)


@pytest.mark.parametrize("script", ["tools/setup_env.sh", "tools/run_tests.sh", ".ci/run"])
def test_syntax(script):
    subprocess.run([BASH, "-n", ROOT / script], check=True, timeout=60)
    assert os.access(ROOT / script, os.X_OK)


@pytest.mark.parametrize("script", ["tools/setup_env.sh", "tools/run_tests.sh", ".ci/run"])
@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help(script, option):
    result = subprocess.run(
        [BASH, ROOT / script, option], capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0
    assert "usage: " in result.stdout + result.stderr


class TestOwnEnvironment:
    def test_everything_in_order_and_then_nothing(self, sandbox):
        result = sandbox.run()
        assert result.returncode == 0, result.stderr
        assert result.stdout == f"{sandbox.root}/.venv\n"
        calls = sandbox.calls()
        order = ["venv", "torch==2.13.0", "mmengine==", "mmcv==2.1.0", "mmdet==", "--editable"]
        places = [next(i for i, call in enumerate(calls) if what in call) for what in order]
        assert places == sorted(places), calls
        (mmcv,) = [call for call in calls if "mmcv==2.1.0" in call]
        assert "--no-build-isolation" in mmcv
        assert "about 9 minutes" in result.stderr

        again = sandbox.run()
        assert again.stdout == result.stdout
        assert again.stderr == ""
        assert sandbox.calls() == []

    def test_torch_is_pinned_for_every_later_step(self, sandbox):
        assert sandbox.run().returncode == 0
        constraints = (sandbox.root / ".venv" / "mmdet_droploss_constraints.txt").read_text()
        assert constraints.splitlines() == ["torch==2.13.0", "numpy>=1.26,<2.3"]

    def test_torch_of_choice(self, sandbox):
        assert sandbox.run(TORCH_SPEC="torch==2.4.1 --find-links somewhere").returncode == 0
        assert any("torch==2.4.1 --find-links somewhere" in call for call in sandbox.calls())

    @pytest.mark.parametrize("env", [{}, dict(STALE_CACHE="1")], ids=["", "stale cache"])
    def test_the_maintained_forks(self, sandbox, tmp_path, env):
        """In an environment of their own, whatever is active."""
        active = sandbox.user_environment("torch==2.5.1", "mmcv==2.1.0")
        settings = dict(SETUP_STACK="onedl", SETUP_VENV=str(tmp_path / "forks"), **env)
        # The stand-in has one folder of packages for all environments.
        for name in ("torch", "mmcv"):
            shutil.rmtree(sandbox.site / name)
            shutil.rmtree(next(sandbox.site.glob(f"{name}-*.dist-info")))
        result = sandbox.run(VIRTUAL_ENV=str(active), **settings)
        assert result.returncode == 0, result.stderr
        assert result.stdout == f"{tmp_path / 'forks'}\n"
        calls = sandbox.calls()
        order = ["onedl-mmengine==0.10", "onedl-mmcv==2.3", "onedl-mmdetection==3.5", "--editable"]
        places = [next(i for i, call in enumerate(calls) if what in call) for what in order]
        assert places == sorted(places), calls
        assert not any(f" {name}==" in call for call in calls for name in ("mmcv", "mmdet"))
        rebuilt = [call for call in calls if "--no-binary onedl-mmcv" in call]
        assert len(rebuilt) == len(env)
        assert sandbox.run(**settings).stderr == ""

    def test_an_unknown_stack(self, sandbox):
        result = sandbox.run(SETUP_STACK="caffe")
        assert result.returncode == 2
        assert "SETUP_STACK=caffe, allowed are openmmlab and onedl" in result.stderr

    def test_old_torch_gets_the_numpy_that_it_was_built_for(self, sandbox):
        assert sandbox.run(TORCH_SPEC="torch==2.2.2").returncode == 0
        assert any("numpy>=1.26,<2" in call.split() for call in sandbox.calls())
        constraints = (sandbox.root / ".venv" / "mmdet_droploss_constraints.txt").read_text()
        assert constraints.splitlines() == ["torch==2.2.2", "numpy>=1.26,<2"]

    def test_extras_add_up(self, sandbox):
        assert sandbox.run(SETUP_EXTRAS="tests").returncode == 0
        assert sandbox.calls()[-1].endswith("[tests]")
        assert sandbox.run().returncode == 0
        assert sandbox.calls() == []
        assert sandbox.run("--extras", "docs").returncode == 0
        assert sandbox.calls()[-1].endswith("[docs,tests]")
        assert sandbox.run("--extras=tests,docs").returncode == 0
        assert sandbox.calls() == []

    @pytest.mark.parametrize("changed", ["setup.cfg", "tools/setup_env.sh"])
    def test_changed_requirements_are_installed(self, sandbox, changed):
        assert sandbox.run().returncode == 0
        sandbox.calls()
        with open(sandbox.root / changed, "a") as file:
            file.write("# changed\n")
        assert sandbox.run().returncode == 0
        (call,) = sandbox.calls()
        assert "--editable" in call

    @pytest.mark.parametrize("step", ["torch==", "mmengine==", "mmcv==", "mmdet==", "--editable"])
    def test_stopped_at_any_step_it_goes_on_from_there(self, sandbox, step):
        failed = sandbox.run(FAIL_ON=step)
        assert failed.returncode != 0
        assert failed.stdout == ""
        before = sandbox.calls()
        assert step in before[-1]  # nothing was tried after the failure
        assert sandbox.run().returncode == 0
        after = sandbox.calls()
        # Preparing mmcv's build is part of its step.
        done = {
            call for call in before[:-1] if "setuptools" not in call and "mmcv-lite" not in call
        }
        assert not done & set(after), "a step that was done is done again"
        assert "--editable" in after[-1]

    def test_broken_environment_is_made_again(self, sandbox):
        (sandbox.root / ".venv").mkdir()
        (sandbox.root / ".venv" / "pyvenv.cfg").touch()
        assert sandbox.run().returncode == 0

    def test_folder_that_is_no_environment_is_left_alone(self, sandbox, tmp_path):
        precious = tmp_path / "precious"
        precious.mkdir()
        (precious / "thesis.txt").write_text("years of work")
        result = sandbox.run(SETUP_VENV=str(precious))
        assert result.returncode == 1
        assert "is not a virtual environment" in result.stderr
        assert (precious / "thesis.txt").exists()

    def test_mmcv_of_another_torch_from_the_cache_is_rebuilt(self, sandbox):
        result = sandbox.run(STALE_CACHE="1")
        assert result.returncode == 0, result.stderr
        first, second = [call for call in sandbox.calls() if "mmcv==2.1.0" in call]
        assert "--no-cache-dir" not in first
        for option in ("--no-cache-dir", "--no-binary mmcv", "--force-reinstall", "--no-deps"):
            assert option in second
        assert "another torch" in result.stderr

    def test_opencv_without_a_screen_is_replaced_by_the_same_version(self, sandbox):
        result = sandbox.run(NO_SCREEN="1")
        assert result.returncode == 0, result.stderr
        calls = sandbox.calls()
        assert any("uninstall" in call and "opencv-python" in call for call in calls)
        assert any("opencv-python-headless==4.9.0.80" in call for call in calls)

    def test_check_installs_nothing(self, sandbox):
        result = sandbox.run("--check")
        assert result.returncode == 1
        assert "missing: environment" in result.stderr
        assert sandbox.calls() == []
        assert not (sandbox.root / ".venv").exists()
        assert sandbox.run().returncode == 0
        sandbox.calls()
        assert sandbox.run("--check").returncode == 0
        assert sandbox.run("--check", "--extras", "tests").returncode == 1
        assert sandbox.calls() == []
        assert sandbox.run().returncode == 0
        assert sandbox.calls() == []  # the check did not spoil what is complete


class TestUsersEnvironment:
    @pytest.mark.parametrize("variable", ["VIRTUAL_ENV", "CONDA_PREFIX"])
    def test_its_torch_is_kept(self, sandbox, variable):
        prefix = sandbox.user_environment("torch==2.5.1", "numpy==1.26.4")
        result = sandbox.run(**{variable: str(prefix)})
        assert result.returncode == 0, result.stderr
        assert result.stdout == f"{prefix}\n"
        assert not any("torch=" in call or "numpy>" in call for call in sandbox.calls())
        constraints = (prefix / "mmdet_droploss_constraints.txt").read_text()
        assert constraints == "torch==2.5.1\n"

    def test_an_old_torch_keeps_its_numpy(self, sandbox):
        """What the package needs may ask for NumPy 2, and pip does not know that torch cannot."""
        prefix = sandbox.user_environment("torch==2.1.2", "numpy==1.26.4")
        assert sandbox.run(VIRTUAL_ENV=str(prefix)).returncode == 0
        constraints = (prefix / "mmdet_droploss_constraints.txt").read_text()
        assert constraints.splitlines() == ["torch==2.1.2", "numpy>=1.26,<2"]

    def test_forks_are_kept(self, sandbox):
        prefix = sandbox.user_environment("torch==2.13.0", "numpy==2.2.6")
        for name, fork in {"mmengine": 1, "mmcv": 1, "mmdet": 1, "cv2": 0}.items():
            (sandbox.site / name).mkdir()
            (sandbox.site / name / "__init__.py").touch()
            if fork:
                info = sandbox.site / f"onedl_{name}-9.0.dist-info"
                info.mkdir()
                (info / "METADATA").write_text(f"Name: onedl-{name}\nVersion: 9.0\n")
        (sandbox.site / "mmcv" / "_ext.py").touch()
        result = sandbox.run(VIRTUAL_ENV=str(prefix))
        assert result.returncode == 0, result.stderr
        *preparations, editable = sandbox.calls()
        assert "--editable" in editable
        assert not any(name in " ".join(preparations) for name in ("mmengine", "mmcv", "mmdet"))
        assert sandbox.run(VIRTUAL_ENV=str(prefix)).stderr == ""  # the stamp knows the fork

    def test_without_torch_it_is_not_touched(self, sandbox):
        prefix = sandbox.user_environment("six==1.0")
        result = sandbox.run(VIRTUAL_ENV=str(prefix))
        assert result.returncode == 0, result.stderr
        assert "has no torch" in result.stderr
        assert result.stdout == f"{sandbox.root}/.venv\n"


class TestWhatIsMissing:
    def test_compiler_is_asked_for_before_anything_is_downloaded(self, sandbox):
        result = sandbox.run(CXX="no-such-compiler")
        assert result.returncode == 1
        assert "no C++ compiler (no-such-compiler)" in result.stderr
        assert sandbox.calls() == []

    def test_python_that_does_not_run(self, sandbox):
        result = sandbox.run(PYTHON="/no/such/python")
        assert result.returncode == 1
        assert "PYTHON=/no/such/python does not run" in result.stderr

    def test_first_python_that_runs_is_taken(self, sandbox, tmp_path):
        path = tmp_path / "path"
        path.mkdir()
        for tool in ("dirname", "sed", "tr", "rm", "mv", "cp", "mkdir", "touch", "getconf", "bash"):
            (path / tool).symlink_to(shutil.which(tool))
        for name in ("python3.11", "python3.12"):  # what pyenv leaves for a version not chosen
            (path / name).write_text(f"#!{BASH}\nexit 127\n")
            (path / name).chmod(0o755)
        result = sandbox.run("--check", PATH=str(path), PYTHON="", CXX="mv")
        assert "no Python 3.10, 3.11 or 3.12 found" in result.stderr
        (path / "python3").symlink_to(sandbox.python)
        result = sandbox.run("--check", PATH=str(path), PYTHON="", CXX="mv")
        assert "missing: environment" in result.stderr

    def test_unknown_option(self, sandbox):
        result = sandbox.run("--stack")
        assert result.returncode != 0
        assert "unknown option --stack" in result.stderr


class TestSourced:
    def test_python_is_the_right_one_afterwards(self, sandbox):
        result = sandbox.bash("source tools/setup_env.sh && command -v python")
        assert result.returncode == 0, result.stderr
        assert result.stdout.strip() == f"{sandbox.root}/.venv/bin/python"

    def test_nothing_stays_behind(self, sandbox):
        result = sandbox.bash("source tools/setup_env.sh; echo $-; declare -F; set | grep _setup_")
        flags, *rest = result.stdout.splitlines()
        assert "e" not in flags and "u" not in flags
        assert not [line for line in rest if not line.startswith("BASH_")]

    def test_options_of_the_calling_script_are_not_taken(self, sandbox):
        code = 'set -euo pipefail; source tools/setup_env.sh; echo "$@"'
        result = sandbox.bash(code, "-k", "losses", "--help")
        assert result.returncode == 0, result.stderr
        assert result.stdout.split() == ["-k", "losses", "--help"]

    def test_failure_does_not_close_the_shell(self, sandbox):
        code = "source tools/setup_env.sh; echo $?; echo still here"
        result = sandbox.bash(code, PYTHON="/no/such/python")
        assert result.stdout.split("\n")[:2] == ["1", "still here"]

    def test_failure_stops_a_strict_script(self, sandbox):
        code = "set -e; source tools/setup_env.sh; echo not reached"
        result = sandbox.bash(code, PYTHON="/no/such/python")
        assert result.returncode == 1
        assert result.stdout == ""

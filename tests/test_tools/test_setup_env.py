"""tools/setup_env.sh and its callers, run for real against a pip that only pretends.

The environments are real ones, but with a stand-in for pip: it makes empty modules and their
metadata. So each path through the scripts, the failures among them, takes a second or two and needs
no network.
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

BASE_PYTHON = """\
#!{bash}
if [[ ${{1:-}} == -m && $2 == venv ]]; then
    echo "venv ${{@:3}}" >>{state}/calls
    {python} -m venv --without-pip "${{@:3}}"
    cp {state}/pip.py "${{@: -1}}"/lib/python3*/site-packages/
else
    exec {python} "$@"
fi
"""

# Installs a distribution by making a module and its metadata. The environment variables say what
# goes wrong: no screen, a step that fails.
STAND_IN_PIP = """\
import os, pathlib, re, shutil, sys, tarfile

arguments = sys.argv[1:]
site = pathlib.Path(__file__).parent
if arguments == ["--version"]:
    sys.exit()
with open({calls!r}, "a") as calls:
    print(*arguments, file=calls)
if os.environ.get("FAIL_ON", "no such name") in " ".join(arguments):
    sys.exit("pip: failed as told to")
MODULES = {{
    "opencv-python": "cv2",
    "opencv-python-headless": "cv2",
    "setuptools": "pkg_resources",
    "mmcv-lite": "mmcv",
    "onedl-mmengine": "mmengine",
    "onedl-mmcv": "mmcv",
    "onedl-mmdetection": "mmdet",
}}


def put(name, version):
    module = site / MODULES.get(name, name.replace("-", "_"))
    module.mkdir(parents=True, exist_ok=True)
    text = f"__version__ = {{version!r}}\\n"
    if name == "opencv-python" and "NO_SCREEN" in os.environ:
        text = "raise ImportError('libGL.so.1: cannot open shared object file')\\n"
    if name == "mmdet_droploss" and "BROKEN" in os.environ:
        text = "raise ImportError('this and that cannot work together')\\n"
    (module / "__init__.py").write_text(text)
    shutil.rmtree(module / "__pycache__", ignore_errors=True)
    info = site / f"{{name.replace('-', '_')}}-{{version}}.dist-info"
    info.mkdir(exist_ok=True)
    lines = ("Metadata-Version: 2.1", f"Name: {{name}}", f"Version: {{version}}", "")
    (info / "METADATA").write_text("\\n".join(lines))


def value(option):
    return arguments[arguments.index(option) + 1]


specs = [a for a in arguments[1:] if re.match(r"[a-z][\\w-]*([=<>]|$)", a)]
if arguments[0] == "uninstall":
    for name in specs:
        for info in site.glob(f"{{name.replace('-', '_')}}-*.dist-info"):
            shutil.rmtree(info)
        shutil.rmtree(site / MODULES.get(name, name), ignore_errors=True)
elif arguments[0] == "download":
    name, version = specs[-1].split("==")
    source = pathlib.Path(value("--dest"), f"{{name}}-{{version}}")
    source.mkdir()
    (source / "setup.py").write_text("flags = ['-Wall', '-std=c++17']\\n")
    with tarfile.open(f"{{source}}.tar.gz", "w:gz") as archive:
        archive.add(source, source.name)
    shutil.rmtree(source)
elif arguments[0] == "wheel":
    source = pathlib.Path(arguments[-1])
    if "c++17" in (source / "setup.py").read_text():
        sys.exit("C++20 or later compatible compiler is required to use PyTorch")
    print("  [1/2] c++", os.environ["MMCV_WITH_OPS"])
    name, version = source.name.rsplit("-", 1)
    pathlib.Path(value("--wheel-dir")).mkdir()
    pathlib.Path(value("--wheel-dir"), f"{{name}}-{{version}}-py3-none-any.whl").touch()
elif arguments[-1].endswith(".whl"):
    put(*pathlib.Path(arguments[-1]).name.removesuffix("-py3-none-any.whl").rsplit("-", 1))
    (site / "mmcv" / "_ext.py").touch()
elif "--editable" in arguments:
    put("mmdet_droploss", "0.1.0")
else:
    for spec in specs:
        name, version = re.match(r"([\\w-]+)(?:[=<>]+([\\w.+]+))?", spec).groups()
        put(name, version or "1.0")
        if name in ("mmengine", "onedl-mmengine"):  # require it
            put("opencv-python", "4.9.0.80")
"""


class Sandbox:
    """A repository with nothing but what the scripts read, and a Python whose pip only pretends."""

    def __init__(self, folder: Path):
        self.root = folder / "repository"
        self.state = folder / "state"
        self.state.mkdir(parents=True)
        (self.root / "tools" / "misc").mkdir(parents=True)
        scripts = ("setup_env.sh", "misc/install_packages.py", "misc/build_mmcv.sh")
        for name in ("setup.cfg", "setup.py", *(f"tools/{script}" for script in scripts)):
            shutil.copy(ROOT / name, self.root / name)
        self.calls_file = self.state / "calls"
        self.calls_file.touch()
        (self.state / "pip.py").write_text(STAND_IN_PIP.format(calls=str(self.calls_file)))
        values = dict(bash=BASH, state=self.state, python=sys.executable)
        self.python = self.state / "python"
        self.python.write_text(
            BASE_PYTHON.format(**{name: shlex.quote(str(value)) for name, value in values.items()})
        )
        self.python.chmod(0o755)
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "PYTHON": str(self.python),
            "CC": "false",
            "CXX": "false",
        }

    def run(self, *options: str, **env: str) -> subprocess.CompletedProcess:
        return self.bash('bash tools/setup_env.sh "$@"', *options, **env)

    def bash(self, code: str, *arguments: str, **env: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [BASH, "-c", code, "bash", *arguments],
            cwd=self.root,
            env={**self.env, **env},
            capture_output=True,
            text=True,
            timeout=300,
        )

    def calls(self) -> list[str]:
        """What pip and venv were asked for since the last time."""
        calls = self.calls_file.read_text().splitlines()
        self.calls_file.write_text("")
        return calls

    def user_environment(self, *specs: str) -> Path:
        """An environment of the user's own, with these distributions in it."""
        prefix = self.state.parent / "users_own"
        subprocess.run([self.python, "-m", "venv", prefix], check=True)
        subprocess.run([prefix / "bin" / "python", "-m", "pip", "install", *specs], check=True)
        self.calls()
        return prefix

    def constraints(self, prefix: Path | None = None) -> list[str]:
        file = (prefix or self.root / ".venv") / "mmdet_droploss_constraints.txt"
        return file.read_text().splitlines()


def site_packages(prefix: Path) -> Path:
    (folder,) = prefix.glob("lib/python3*/site-packages")
    return folder


def in_order(calls: list[str], *parts: str) -> bool:
    """Whether there are calls with these, each after the one before."""
    places = [next(i for i, call in enumerate(calls) if part in call) for part in parts]
    return places == sorted(places)


@pytest.fixture
def sandbox(tmp_path):
    return Sandbox(tmp_path)


SCRIPTS = ["tools/setup_env.sh", "tools/misc/build_mmcv.sh", "tools/run_tests.sh", ".ci/run"]


@pytest.mark.parametrize("script", [*SCRIPTS, "tools/quickstart.sh"])
def test_syntax(script):
    subprocess.run([BASH, "-n", ROOT / script], check=True, timeout=60)
    assert os.access(ROOT / script, os.X_OK)


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help(script, option):
    result = subprocess.run(
        [BASH, ROOT / script, option], capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0
    assert "usage: " in result.stdout + result.stderr


def test_stacks_of_the_tests():
    result = subprocess.run(
        [BASH, ROOT / "tools/run_tests.sh", "--stack", "caffe"], capture_output=True, text=True
    )
    assert result.returncode == 2
    assert "--stack 'caffe', allowed are compiled and onedl" in result.stderr


def test_the_lint_takes_no_arguments_of_pytest():
    command = [BASH, ROOT / "tools/run_tests.sh", "--lint", "-k", "losses"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 2
    assert "--lint takes no other arguments" in result.stderr


class TestOwnEnvironment:
    def test_everything_in_order_without_a_compiler_and_then_nothing(self, sandbox):
        result = sandbox.run()
        assert result.returncode == 0, result.stderr
        assert result.stdout == f"{sandbox.root}/.venv\n"
        calls = sandbox.calls()
        order = ["venv", "torch==2.14.1", "torchvision==0.29.1", "mmcv-lite==2.1.0", "--editable"]
        assert in_order(calls, *order), calls
        assert any("mmengine==0.10.7" in call and "mmdet==3.3.0" in call for call in calls)
        assert not any(" mmcv==" in call or "no-binary" in call for call in calls)

        again = sandbox.run()
        assert again.stdout == result.stdout
        assert again.stderr == ""
        assert sandbox.calls() == []

    def test_size_of_the_download_is_said_before_it(self, sandbox):
        failed = sandbox.run(FAIL_ON="torch==")
        said = failed.stderr
        if sys.platform == "linux":
            assert said.index("3 GB to fetch") < said.index("pip: failed as told to")
            assert 'TORCH_SPEC="torch==2.14.1 --index-url URL"' in said
        chosen = sandbox.run(FAIL_ON="torch==", TORCH_SPEC="torch==2.14.1 --index-url here")
        assert "GB" not in chosen.stderr

    def test_torch_is_pinned_for_every_later_step(self, sandbox):
        assert sandbox.run().returncode == 0
        assert sandbox.constraints() == ["torch==2.14.1", "numpy>=1.26,<3"]
        *_, torch, torchvision, packages, editable = sandbox.calls()
        assert "--constraint" not in torch
        for call in (torchvision, packages, editable):
            assert "--constraint" in call

    def test_torch_of_choice(self, sandbox):
        """The torchvision that belongs to it comes from the same place."""
        spec = "torch==2.4.1+cpu --find-links somewhere"
        assert sandbox.run(TORCH_SPEC=spec).returncode == 0
        calls = sandbox.calls()
        assert any(f"install {spec}" in call for call in calls)
        assert any("torchvision==0.19.1+cpu --find-links somewhere" in call for call in calls)

    def test_the_maintained_forks(self, sandbox, tmp_path):
        """In an environment of their own, whatever is active."""
        active = sandbox.user_environment("torch==2.5.1", "mmcv-lite==2.1.0")
        settings = dict(SETUP_STACK="onedl", SETUP_VENV=str(tmp_path / "forks"))
        result = sandbox.run(VIRTUAL_ENV=str(active), **settings)
        assert result.returncode == 0, result.stderr
        assert result.stdout == f"{tmp_path / 'forks'}\n"
        calls = sandbox.calls()
        (packages,) = [call for call in calls if "onedl-mmcv==2.3" in call]
        assert "onedl-mmengine==0.10" in packages and "onedl-mmdetection==3.5" in packages
        assert not any(f" {name}==" in call for call in calls for name in ("mmcv", "mmdet"))
        assert sandbox.run(**settings).stderr == ""

    @pytest.mark.parametrize("variable", ["SETUP_STACK", "SETUP_OPS"])
    def test_an_unknown_stack(self, sandbox, variable):
        result = sandbox.run(**{variable: "caffe"})
        assert result.returncode != 0
        assert f"{variable}=caffe, allowed are " in result.stderr

    def test_old_torch_gets_the_numpy_that_it_was_built_for(self, sandbox):
        assert sandbox.run(TORCH_SPEC="torch==2.2.2").returncode == 0
        assert any("torchvision==0.17.2" in call.split() for call in sandbox.calls())
        assert sandbox.constraints() == ["torch==2.2.2", "numpy>=1.26,<2"]

    def test_extras_add_up(self, sandbox):
        assert sandbox.run(SETUP_EXTRAS="tests").returncode == 0
        assert "[tests]" in sandbox.calls()[-1]
        assert sandbox.run().returncode == 0
        assert sandbox.calls() == []
        assert sandbox.run("--extras", "docs").returncode == 0
        assert "[docs,tests]" in sandbox.calls()[-1]
        assert sandbox.run("--extras=tests,docs").returncode == 0
        assert sandbox.calls() == []

    @pytest.mark.parametrize("changed", ["setup.cfg", "tools/misc/install_packages.py"])
    def test_changed_requirements_are_installed(self, sandbox, changed):
        assert sandbox.run().returncode == 0
        sandbox.calls()
        with open(sandbox.root / changed, "a") as file:
            file.write("# changed\n")
        assert sandbox.run().returncode == 0
        (call,) = sandbox.calls()
        assert "--editable" in call

    @pytest.mark.parametrize("step", ["torch==", "torchvision==", "mmengine==", "--editable"])
    def test_stopped_at_any_step_it_goes_on_from_there(self, sandbox, step):
        failed = sandbox.run(FAIL_ON=step)
        assert failed.returncode != 0
        assert failed.stdout == ""
        assert "is the network there?" in failed.stderr
        assert "the same command goes on here" in failed.stderr
        before = sandbox.calls()
        assert step in before[-1]  # nothing was tried after the failure
        assert sandbox.run().returncode == 0
        after = sandbox.calls()
        assert not set(before[:-1]) & set(after), "a step that was done is done again"
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

    def test_opencv_without_a_screen_is_replaced_by_the_same_version(self, sandbox):
        result = sandbox.run(NO_SCREEN="1")
        assert result.returncode == 0, result.stderr
        calls = sandbox.calls()
        assert any("uninstall" in call and "opencv-python" in call for call in calls)
        assert any("opencv-python-headless==4.9.0.80" in call for call in calls)

    def test_what_does_not_work_is_said_at_the_end(self, sandbox):
        result = sandbox.run(BROKEN="1")
        assert result.returncode == 1
        assert "this and that cannot work together" in result.stderr
        assert "but it does not work, see above" in result.stderr
        assert sandbox.run("--check").returncode == 1

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


class TestCompiledOperators:
    def test_replace_mmcv_lite(self, sandbox):
        result = sandbox.run(SETUP_OPS="compiled", CXX="true", BUILD_PROGRESS_SECONDS="1")
        assert result.returncode == 0, result.stderr
        order = ["mmcv-lite==2.1.0", "download", "wheel --", "uninstall", ".whl"]
        calls = sandbox.calls()
        assert in_order(calls, *order), calls
        assert "about 9 minutes" in result.stderr
        assert not any("torchvision" in call for call in calls)  # not needed
        site = site_packages(sandbox.root / ".venv")
        assert (site / "mmcv" / "_ext.py").exists()
        assert not list(site.glob("mmcv_lite*"))
        assert sandbox.run(SETUP_OPS="compiled").stderr == ""

    def test_the_tests_compare_both(self, sandbox):
        result = sandbox.run(SETUP_OPS="compiled", SETUP_EXTRAS="tests", CXX="true")
        assert result.returncode == 0, result.stderr
        calls = sandbox.calls()
        assert in_order(calls, "torchvision==0.29.1", "wheel --"), calls

    def test_of_the_fork(self, sandbox):
        result = sandbox.run(SETUP_OPS="compiled", SETUP_STACK="onedl", CXX="true")
        assert result.returncode == 0, result.stderr
        assert any("download" in call and "onedl-mmcv==2.3.6" in call for call in sandbox.calls())

    def test_without_a_compiler_what_is_there_stays(self, sandbox):
        result = sandbox.run(SETUP_OPS="compiled", CXX="no-such-compiler")
        assert result.returncode == 1
        assert "no C++ compiler (no-such-compiler)" in result.stderr
        assert not any("uninstall" in call for call in sandbox.calls())

    def test_a_failed_compilation_changes_nothing(self, sandbox):
        result = sandbox.run(SETUP_OPS="compiled", CXX="true", FAIL_ON="wheel --disable")
        assert result.returncode == 1
        assert "pip: failed as told to" in result.stderr
        assert list(site_packages(sandbox.root / ".venv").glob("mmcv_lite*"))


class TestUsersEnvironment:
    @pytest.mark.parametrize("variable", ["VIRTUAL_ENV", "CONDA_PREFIX"])
    def test_its_torch_is_kept_and_gets_its_torchvision(self, sandbox, variable):
        prefix = sandbox.user_environment("torch==2.5.1", "numpy==1.26.4")
        result = sandbox.run(**{variable: str(prefix)})
        assert result.returncode == 0, result.stderr
        assert result.stdout == f"{prefix}\n"
        calls = sandbox.calls()
        assert not any("torch==" in call or "numpy>" in call for call in calls)
        assert any("torchvision==0.20.1" in call for call in calls)
        assert sandbox.constraints(prefix)[0] == "torch==2.5.1"

    def test_a_build_without_cuda_wants_its_torchvision_from_the_same_place(self, sandbox):
        prefix = sandbox.user_environment("torch==2.13.0+cpu")
        result = sandbox.run(VIRTUAL_ENV=str(prefix), FAIL_ON="torchvision")
        assert result.returncode == 1
        assert "torchvision==0.28.0+cpu has to come from where this torch did" in result.stderr

    def test_an_old_torch_keeps_its_numpy(self, sandbox):
        """What the package needs may ask for NumPy 2, and pip does not know that torch cannot."""
        prefix = sandbox.user_environment("torch==2.1.2", "numpy==1.26.4")
        assert sandbox.run(VIRTUAL_ENV=str(prefix)).returncode == 0
        assert sandbox.constraints(prefix) == ["torch==2.1.2", "numpy>=1.26,<2"]

    def test_forks_and_compiled_operators_are_kept(self, sandbox):
        forks = ("onedl-mmengine==9.0", "onedl-mmcv==9.0", "onedl-mmdetection==9.0")
        prefix = sandbox.user_environment("torch==2.13.0", "setuptools==80", "wheel", *forks)
        (site_packages(prefix) / "mmcv" / "_ext.py").touch()
        result = sandbox.run(VIRTUAL_ENV=str(prefix))
        assert result.returncode == 0, result.stderr
        torchvision, editable = sandbox.calls()
        assert "torchvision==0.28.0" in torchvision
        assert "--editable" in editable
        assert sandbox.run(VIRTUAL_ENV=str(prefix)).stderr == ""  # the stamp knows the fork

    def test_without_torch_it_is_not_touched(self, sandbox):
        prefix = sandbox.user_environment("six==1.0")
        result = sandbox.run(VIRTUAL_ENV=str(prefix))
        assert result.returncode == 0, result.stderr
        assert "has no torch" in result.stderr
        assert result.stdout == f"{sandbox.root}/.venv\n"

    def test_without_pip_it_is_never_replaced(self, sandbox):
        """Some tools make environments without pip, and here ensurepip fails, too."""
        prefix = sandbox.user_environment("torch==2.5.1")
        (site_packages(prefix) / "pip.py").unlink()
        (site_packages(prefix) / "ensurepip.py").write_text("raise SystemExit(1)\n")
        real = prefix / "bin" / "python"
        real.rename(prefix / "bin" / "real_python")
        real.write_text(
            f'#!{BASH}\nPYTHONPATH={site_packages(prefix)} exec {prefix}/bin/real_python "$@"\n'
        )
        real.chmod(0o755)
        for settings in (dict(VIRTUAL_ENV=str(prefix)), dict(SETUP_VENV=str(prefix))):
            result = sandbox.run(**settings)
            assert result.returncode == 1
            assert "has torch, but neither pip nor ensurepip" in result.stderr
            assert (site_packages(prefix) / "torch").is_dir()

    def test_of_another_python_it_is_not_used(self, sandbox, tmp_path):
        """Here one that answers every question about itself with no."""
        bin = tmp_path / "old" / "bin"
        bin.mkdir(parents=True)
        (bin / "python").write_text(f"#!{BASH}\n[[ $2 == *metadata* ]]\n")
        (bin / "python").chmod(0o755)
        result = sandbox.run(VIRTUAL_ENV=str(tmp_path / "old"))
        assert result.returncode == 0, result.stderr
        assert "is not Python 3.10 to 3.13, so" in result.stderr
        assert result.stdout == f"{sandbox.root}/.venv\n"


class TestWhatIsMissing:
    def test_python_that_does_not_run(self, sandbox):
        result = sandbox.run(PYTHON="/no/such/python")
        assert result.returncode == 1
        assert "PYTHON=/no/such/python does not run" in result.stderr

    def test_first_python_that_runs_is_taken(self, sandbox, tmp_path):
        path = tmp_path / "path"
        path.mkdir()
        for tool in ("dirname", "bash", "ls", "cp"):
            (path / tool).symlink_to(shutil.which(tool))
        for name in ("python3.11", "python3.12"):  # what pyenv leaves for a version not chosen
            (path / name).write_text(f"#!{BASH}\nexit 127\n")
            (path / name).chmod(0o755)
        result = sandbox.run(PATH=str(path), PYTHON="")
        assert "no Python 3.10 to 3.13 found" in result.stderr
        (path / "python3").symlink_to(sandbox.python)
        result = sandbox.run(PATH=str(path), PYTHON="", FAIL_ON="torch==")
        assert f"environment in {sandbox.root}/.venv, with Python 3." in result.stderr

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
        code = (
            "source tools/setup_env.sh; unset -f deactivate; "
            "echo $-; declare -F; set | grep -i _setup_"
        )
        result = sandbox.bash(code)
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

"""Build script. All metadata is in setup.cfg; this adds the files that mim looks for.

``mim train mmdet_droploss ...`` reads configs, tools and the model index from
``mmdet_droploss/.mim``. A wheel gets copies of them, put straight into the build folder. An
editable install gets links in the source tree, so that mim sees a config as soon as it is edited,
and metadata that leads mim and MMEngine there.
"""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

from setuptools import setup
from setuptools.command.build import build
from setuptools.command.build_py import build_py
from setuptools.command.editable_wheel import editable_wheel

ROOT = Path(__file__).resolve().parent
MIM_DIR = Path("mmdet_droploss", ".mim")
MIM_SOURCES = ("configs", "tools", "model-index.yml")
IGNORED = shutil.ignore_patterns("__pycache__", "*.py[cod]")


def replace_by_copy(source: Path, target: Path) -> None:
    """Put a copy of ``source``, a file or a folder, at ``target``, in place of what is there."""
    remove(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, ignore=IGNORED)
    else:
        shutil.copy2(source, target)


def replace_by_link(source: Path, target: Path) -> None:
    """Put a relative link to ``source`` at ``target``, or a copy where links are not allowed."""
    remove(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        target.symlink_to(os.path.relpath(source, target.parent), source.is_dir())
    except OSError:  # Windows without the privilege, file systems without links
        replace_by_copy(source, target)


def remove(path: Path) -> None:
    """Delete a file, a link (never what it points to) or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


class BuildInTemporaryFolder(build):
    """Build outside the source tree.

    setuptools' default, ``./build``, stays behind, and files deleted since then would go into the
    next wheel. A folder given with ``--build-base`` is used as it is.
    """

    _folder = None

    def initialize_options(self):
        """Choose a folder to build in."""
        super().initialize_options()
        cls = type(self)
        if cls._folder is None:
            cls._folder = tempfile.mkdtemp(prefix="mmdet_droploss-build-")
            atexit.register(shutil.rmtree, cls._folder, ignore_errors=True)
        self.build_base = cls._folder


class BuildPyWithMimFiles(build_py):
    """Put configs, tools and the model index where mim finds them."""

    def run(self):
        """Build, then put the files there."""
        super().run()
        if self.editable_mode:
            target_root, put = ROOT / MIM_DIR, replace_by_link
        else:
            target_root, put = Path(self.build_lib) / MIM_DIR, replace_by_copy
        for name in MIM_SOURCES:
            if (ROOT / name).exists():
                put(ROOT / name, target_root / name)
            else:
                remove(target_root / name)


class EditableWheelThatMimFinds(editable_wheel):
    """Say in the metadata where the package is.

    mim and MMEngine look for a package beside its metadata, so in site-packages, where an editable
    install puts none. If there is none, they join that folder with the first line of top_level.txt,
    and joining with an absolute path gives this path. The second line is what others look for.
    """

    def run(self):
        """Give pip what it does not make by itself, then build."""
        if self.dist_info_dir is None:  # pip makes it before it calls this, other tools may not
            dist_info = self.reinitialize_command("dist_info")
            dist_info.output_dir = self.dist_dir
            dist_info.ensure_finalized()
            dist_info.run()
            self.dist_info_dir = dist_info.dist_info_dir
        names = Path(self.dist_info_dir, "top_level.txt")
        names.write_text(f"{ROOT / 'mmdet_droploss'}\nmmdet_droploss\n", encoding="utf-8")
        super().run()


if __name__ == "__main__":
    setup(
        cmdclass={
            "build": BuildInTemporaryFolder,
            "build_py": BuildPyWithMimFiles,
            "editable_wheel": EditableWheelThatMimFinds,
        }
    )

"""Sphinx's settings. Build offline with: sphinx-build -W docs docs/_build"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# The package need not be installed: autodoc imports it from here.
sys.path.insert(0, str(ROOT))

_version: dict = {}
exec((ROOT / "mmdet_droploss" / "version.py").read_text(encoding="utf-8"), _version)

project = "mmdet_droploss"
author = "The mmdet_droploss authors"
copyright = author
release = version = _version["__version__"]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.mathjax", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
source_suffix = {".md": "markdown"}

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_numpy_docstring = False
# Keeps the underscore of an argument like lambda_.
strip_signature_backslash = True

# Names of other packages, which an offline build cannot look up, and of arguments' types.
nitpick_ignore_regex = [(r"py:.*", r"(?!mmdet_droploss\.).*")]

html_theme = "furo"
html_title = f"mmdet_droploss {release}"


def escape_for_rst(app, what, name, obj, options, lines):
    """Escape what reads well in Python and means something else in reStructuredText.

    ``*args, **kwargs`` would start emphasis, and ``lambda_`` would be a link. Runs before napoleon.
    """
    for index, line in enumerate(lines):
        line = re.sub(r"^(\s*)\*args, (\w+, )?\*\*kwargs:", r"\1\\*args, \2\\*\\*kwargs:", line)
        lines[index] = re.sub(r"(?<![`\w.])lambda_(?![`\w:])", r"lambda\\_", line)


def setup(app):
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", escape_for_rst, priority=400)

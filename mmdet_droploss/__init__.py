"""DropLoss, EQL and BEQL for long-tailed instance segmentation with MMDetection 3.x.

Importing this package registers its parts in mmdet's registries: the data sets and the sampler, the
hooks, the metric, the losses and the bbox head. A config does that with::

    custom_imports = dict(imports=["mmdet_droploss"], allow_failed_imports=False)
"""

from .environment import check_environment
from .ops import stand_in
from .version import __version__

check_environment()  # first: what follows fails in obscure ways in an environment that cannot work
stand_in()  # mmdet loads mmcv's operators as soon as anything of it is imported

from . import annotations, datasets, engine, evaluation, models, registry

__all__ = ["__version__", "annotations", "datasets", "engine", "evaluation", "models", "registry"]

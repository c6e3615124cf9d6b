"""mmcv's compiled operators from torchvision, for an mmcv that was installed without its own.

mmcv has its operators in the module ``mmcv._ext``, which has to be compiled for the torch that is
installed. mmcv-lite, and an mmcv that pip built in isolation, are without it, and then ``mmcv.ops``
does not load, nor does most of mmdet. torchvision has the operators that detectors need, compiled
for every torch, for CPU and CUDA. :mod:`.extension` has them in the form in which mmcv calls them,
and :func:`stand_in` lets Python find it under the name ``mmcv._ext``.
"""

from .finder import is_compiled, stand_in

__all__ = ["is_compiled", "stand_in"]

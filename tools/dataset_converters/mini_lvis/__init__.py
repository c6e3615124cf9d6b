"""The modules behind ``make_mini_lvis.py``, in the order in which they work.

``options``, ``plan``, ``glyphs``, ``lvis_json``, ``build``. With ``--like-lvis``, ``like_lvis``
takes the place of ``plan``, and ``shapes`` that of ``glyphs``. What draws (``canvas``, ``glyphs``,
``shapes``) runs in worker processes, so it imports neither torch nor mmdet_droploss.
"""

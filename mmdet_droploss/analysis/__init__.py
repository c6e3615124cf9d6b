"""What tested runs say: their numbers with intervals, figures, pictures and a report.

``runs`` reads what a training and its test left in a work dir; ``comparable_runs`` says which of
them can be compared. ``detections`` reads the annotations and the results files. ``intervals`` and
``tables`` compare the numbers. ``figures`` and ``gallery`` draw. ``report`` puts all into one HTML
file. ``gradient_figure`` is the paper's Figure 1. ``proposals`` fits a config to a data set.
Nothing of this is imported with the package, since only what draws needs matplotlib.
"""

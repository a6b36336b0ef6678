"""Reports: the page about trained classifiers, and the page about a data set.

`run_report` opens each folder as a `ReportTarget`, writes a `Chapter` about it, compares several in
a `Comparison`, and adds a `DatasetChapter`. To add a plot, enter it in `PLOTS` of `result_plots` or
`training_plots`; to add a group of images, enter it in `GROUPS` of `image_groups`.
"""

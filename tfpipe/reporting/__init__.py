"""The page about trained classifiers: a module for each of its parts.

A `subject` is what one folder holds, a `chapter` all that is told of it; `page` puts the chapters,
their `comparison` and the `data` into one file. Plots are PNG files in memory until then. To add a
plot, enter it in `PLOTS` of `results` or `curves`; a group of pictures, in `GROUPS` of `pictures`.
"""

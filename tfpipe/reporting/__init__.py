"""The page about a trained classifier: one module for each of its parts, and `page` for all.

Each part takes a `subject.Subject` and gives what its piece of the template shows; plots are PNG
files in memory until `page` embeds them and writes them beside the run.
"""

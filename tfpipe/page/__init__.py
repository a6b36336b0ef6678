"""The parts that all HTML pages share: frame, style, plots, thumbnails and heat maps."""

"""Other formats and outside images: export of checkpoints, and prediction of images that are no data set's."""

"""Train HRDA: the Supervisely app that prepares projects, starts the training of `hrda_core` and shows it."""

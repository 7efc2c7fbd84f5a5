"""A model, a scheme, a dataset, a task and a metric for spiketok, one file each; ``pyproject.toml`` names them."""

"""Windows for a Lightning Trainer; imported only where Lightning is installed (``pip install 'spiketok[lightning]'``).

The ranks of a distributed training get equally many batches, and each epoch is another one; neither a
``DistributedSampler`` nor a call of ``set_epoch`` is needed.
"""

from __future__ import annotations

import sys

from torch.utils.data import DataLoader

from spiketok.api.dataset import WindowDataset, WindowLoader, empty_split
from spiketok.errors import require

# the two packages of one project; whichever the program has imported, for a Trainer takes its own classes alone
_NAME = "pytorch_lightning" if "pytorch_lightning" in sys.modules else "lightning.pytorch"
LightningDataModule = require(_NAME, "lightning", "a LightningDataModule").LightningDataModule


class WindowModule(LightningDataModule):
    """Training, validation and test windows of one dataset: ``ws.datamodule(...)``.

    Args:
        dataset: of the training split, with a ``batch_size``.
        num_workers: of each DataLoader. options: further ones of ``torch.utils.data.DataLoader``.
    """

    def __init__(self, dataset: WindowDataset, num_workers: int = 0, **options: object) -> None:
        super().__init__()
        self.dataset, self.options = dataset, {"num_workers": num_workers} | options

    def train_dataloader(self) -> WindowLoader:
        """Batches at random places, of another epoch at each iteration."""
        loader = self.dataset.of("train", even=True).loader(**self.options)
        if self.trainer is not None:
            loader.next_epoch = self.trainer.current_epoch
        return loader

    def val_dataloader(self) -> DataLoader | list:
        """The valid time, window behind window; nothing where the split rule leaves none."""
        return self._in_order("valid")

    def test_dataloader(self) -> DataLoader | list:
        """The test time, window behind window; nothing where the split rule leaves none."""
        return self._in_order("test")

    def _in_order(self, split: str) -> DataLoader | list:
        if empty_split(self.dataset.recipe.sessions, split):
            return []
        return self.dataset.of(split, even=False).loader(**self.options)

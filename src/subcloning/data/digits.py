"""scikit-learn's bundled handwritten digits: 1,797 grey images of 8 x 8, ten classes."""

from typing import ClassVar

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from .memory import MemoryDataModule


class Digits(MemoryDataModule):
    """1,347 training and 450 validation images, stratified, always the same split; values from -1 to 1."""

    preprocessing: ClassVar = {"input_size": (1, 8, 8), "mean": (0.5,), "std": (0.5,), "crop_pct": 1.0}

    def __init__(self, **options):
        digits = load_digits()
        images = torch.from_numpy(digits.images).float().unsqueeze(1) / 8 - 1
        labels = torch.from_numpy(digits.target).long()
        train, validation = train_test_split(range(len(labels)), test_size=450, random_state=0, stratify=labels)
        super().__init__((images[train], labels[train]), (images[validation], labels[validation]), **options)

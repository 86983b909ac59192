"""scikit-learn's bundled handwritten digits: 1,797 grey images of 8 x 8, ten classes."""

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from .cached import ArrayImages
from .datamodule import ImageData

PREPROCESSING = {"input_size": (1, 8, 8), "mean": (0.5,), "std": (0.5,), "crop_pct": 1.0}


class Digits(ImageData):
    """1,347 training and 450 validation images, stratified, always the same split; values from -1 to 1."""

    def __init__(self, **options):
        digits = load_digits()
        images = torch.from_numpy(digits.images).float().unsqueeze(1) / 8 - 1
        labels = torch.from_numpy(digits.target).long()
        parts = train_test_split(range(len(labels)), test_size=450, random_state=0, stratify=labels)
        classes = [str(name) for name in digits.target_names]
        train, validation = (ArrayImages(images[part], labels[part], classes) for part in parts)
        super().__init__(train, validation, classes=classes, preprocessing=PREPROCESSING, on_batch=True, **options)

"""The time of a training's steps under Lightning, the first ones left out."""

import time

from pytorch_lightning import Callback


class Clock(Callback):
    """`seconds`, from the beginning of step `warmup` to the end of the last one."""

    def __init__(self, warmup: int):
        self.warmup = warmup

    def on_train_batch_start(self, trainer, *args) -> None:
        if trainer.global_step == self.warmup:
            self.start = time.perf_counter()

    def on_train_batch_end(self, trainer, *args) -> None:
        self.seconds = time.perf_counter() - self.start if trainer.global_step > self.warmup else 0.0

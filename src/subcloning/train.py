"""Train one run, or with -m a sweep: `python -m subcloning.train experiment=digits init=subclone seed=1`."""

import os
import signal
import sys

import hydra
from omegaconf import DictConfig

from . import resolvers
from .training.sweeps import take_device


@hydra.main(config_path="../../configs", config_name="train", version_base="1.3")
def main(cfg: DictConfig) -> None:
    assert resolvers  # a process of a sweep imports what this function names, and needs them for its config
    take_device(cfg)
    from .training.interruptions import Interrupted, requeue
    from .training.run import run  # the libraries take seconds to import: not for --help or a sweep's parent process

    try:
        run(cfg)
    except Interrupted as stop:
        print(stop, file=sys.stderr, flush=True)
        if os.environ.get("SLURM_PROCID", "0") != "0":
            sys.exit()  # with no error, for which srun would end rank 0 before it has requeued the job
        if stop.signum != signal.SIGTERM and "SLURM_JOB_ID" in os.environ:
            requeue()
        sys.exit(128 + stop.signum)


if __name__ == "__main__":
    main()

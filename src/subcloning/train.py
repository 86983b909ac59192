"""Train one run, or with -m a sweep: `python -m subcloning.train experiment=digits init=subclone seed=1`."""

import hydra
from omegaconf import DictConfig


@hydra.main(config_path="../../configs", config_name="train", version_base="1.3")
def main(cfg: DictConfig) -> None:
    from .training.run import run  # the libraries take seconds to import: not for --help or a sweep's parent process

    run(cfg)


if __name__ == "__main__":
    main()

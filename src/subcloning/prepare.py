"""Prepare a corpus: `python -m subcloning.prepare data=stdlib`. Stopped at any point, the same command goes on.

On several nodes run it on each, with node=0 nodes=4 and so on (under srun this is found out); large sets profit.
"""

import hydra
from omegaconf import DictConfig


@hydra.main(config_path="../../configs", config_name="prepare", version_base="1.3")
def main(cfg: DictConfig) -> None:
    from hydra.utils import instantiate

    corpus = instantiate(cfg.data.corpus, _convert_="all")
    manifest = corpus.prepare(cfg.processes, cfg.node, cfg.nodes)
    if not manifest:
        print(f"{corpus.folder}: this node's share is done, others' is not yet; the last one writes the manifest")
    for split, info in manifest.get("splits", {}).items():
        print(f"{split}: {info['documents']:,} documents, {info['characters']:,} characters, {info['tokens']:,} tokens")


if __name__ == "__main__":
    main()

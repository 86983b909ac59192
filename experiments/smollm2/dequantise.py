"""The model in a GGUF file, saved as transformers saves any: `dequantise.py FILE.gguf FOLDER`.

Needs gguf and accelerate, as experiments/smollm2/packages.txt pins them.
"""

import argparse
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from subcloning.files import atomic


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gguf", type=Path)
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    where, file = args.gguf.parent, args.gguf.name
    given = AutoModelForCausalLM.from_pretrained(where, gguf_file=file, dtype=torch.float32)
    config = given.config
    del config.quantization_config
    plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    plain.load_state_dict(given.state_dict())
    with atomic(args.folder) as temporary:
        plain.save_pretrained(temporary)
        AutoTokenizer.from_pretrained(where, gguf_file=file).save_pretrained(temporary)


if __name__ == "__main__":
    main()

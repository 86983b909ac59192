"""The small commands: what a run costs, and preparing a corpus."""

import re

import pytest
from hydra import compose

from subcloning import cost, prepare

# Parameters of the child, FLOPs per token to train it, tokens of a run.
COSTS = {
    "fig10_gpt2": (354_823_168, 2.43e9, 6.37e10),
    "fig13_parent": (354_823_168, 2.43e9, 6.37e10),
    "fig09_vit": (22_050_664, 1.4e8, 150 * 1_280_000 * 196),
    "fig12_scaling": (158_737_640, 1.01e9, 150 * 1_280_000 * 256),
}


@pytest.mark.parametrize("experiment", COSTS)
def test_cost(config, capsys, experiment):
    """Without the data, which need not be there."""
    cost.main(config(f"experiment={experiment}"))
    said = capsys.readouterr().out
    parameters, flops, tokens = COSTS[experiment]
    (child,) = re.findall(r"child \w+: ([\d,]+) parameters, (\S+) FLOPs", said)
    assert int(child[0].replace(",", "")) == parameters
    assert float(child[1]) == pytest.approx(flops, rel=0.05)
    ((counted, total),) = re.findall(r"one run of the child: (\S+) tokens, (\S+) FLOPs", said)
    assert float(counted) == pytest.approx(tokens, rel=0.01)
    assert float(total) == pytest.approx(flops * tokens, rel=0.06)
    hours = dict(re.findall(r"  (\w\d+): (\S+)", said))
    assert float(hours["A100"].replace(",", "")) == pytest.approx(float(total) / 312e12 / 0.4 / 3600, rel=0.01)


def test_prepare(config, capsys, tmp_path):
    (tmp_path / "text").mkdir()
    for n in range(20):
        (tmp_path / "text" / f"{n}.txt").write_text(f"Some text number {n}. " * 50)
    options = ["data=text_files", f"data.corpus.folder={tmp_path}/corpus", "processes=1"]
    options += [f"data.corpus.source.train={tmp_path}/text/*.txt", "data.corpus.source.validation_share=0.3"]
    tokenizer = "{_target_: subcloning.data.text.tokenizer.TrainedBPE, vocab_size: 280}"
    prepare.main(
        compose("prepare", overrides=[*options, "~data.corpus.tokenizer", f"+data.corpus.tokenizer={tokenizer}"])
    )
    found = re.findall(r"(\w+): (\d+) documents, ([\d,]+) characters", capsys.readouterr().out)
    assert {split for split, *_ in found} == {"train", "validation"}
    assert sum(int(documents) for _, documents, _ in found) == 20

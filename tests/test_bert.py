"""BERT, whose norms stand in the stream itself: units are chosen, never rotated."""

import dataclasses

import pytest
import torch
from tiny import randomise
from torch import nn
from transformers import BertConfig, BertModel

from subcloning import SubcloningError, score, subclone, verify
from subcloning.method.axes import FAMILIES, family_of, register
from subcloning.method.surgery import permute


class BertWithHead(BertModel):
    """Puts out something that does not lie along the stream."""

    def __init__(self, config):
        super().__init__(config, add_pooling_layer=False)
        self.reader = nn.Linear(config.hidden_size, 5)

    def forward(self, *args, **kwargs):
        return self.reader(super().forward(*args, **kwargs).last_hidden_state)


def bert(heads=4, depth=3, seed=0, build=None, **kwargs):
    options = {"hidden_size": 6 * heads, "intermediate_size": 12 * heads, "num_attention_heads": heads}
    options |= {"num_hidden_layers": depth, "vocab_size": 37, "max_position_embeddings": 16}
    config = BertConfig(**options | kwargs)
    return randomise(build(config) if build else BertModel(config, add_pooling_layer=False), seed)


def batch(model):
    tokens = torch.randint(37, (3, 9), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(tokens)
    mask[1, 5:] = 0
    return {"input_ids": tokens, "attention_mask": mask}


def test_the_table_describes_it():
    model = bert(build=BertWithHead)
    base = family_of(model)
    rows = {**base.table, "reader.weight": "label <- residual", "reader.bias": "label"}
    family = register(dataclasses.replace(base, model_class=f"{__name__}.BertWithHead", table=rows))
    try:
        assert verify(model, batch(model), rotate=False).permuted < 1e-5
        with pytest.raises(SubcloningError, match=r"stream of this HF BERT cannot be rotated"):
            verify(model, batch(model))
    finally:
        del FAMILIES[family.model_class]


def test_without_a_head_it_is_verified_along_the_stream(monkeypatch):
    model = bert()
    assert verify(model, batch(model), rotate=False).permuted < 1e-5
    family = family_of(model)
    name = "encoder.layer.{block}.output.LayerNorm.weight"
    assert family.table[name] == "residual"
    wrong = dataclasses.replace(family, table={**family.table, name: "other"})
    monkeypatch.setitem(FAMILIES, family.model_class, wrong)
    with pytest.raises(SubcloningError, match="permuting its units moves its outputs"):
        verify(model, batch(model), rotate=False)


def test_a_child_keeps_the_important_units():
    parent = bert()
    given = batch(parent)
    scores = score(parent, [given])
    child = bert(heads=2, depth=2, seed=9)
    subclone(permute(parent, scores), child, select="first")
    other = subclone(parent, bert(heads=2, depth=2, seed=8), scores=scores)
    with torch.no_grad():
        torch.testing.assert_close(child(**given).last_hidden_state, other(**given).last_hidden_state)
    assert family_of(parent).resized(parent, width=0.5, blocks=2) == {
        key: getattr(child.config, key)
        for key in ("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers")
    }


def test_what_it_cannot_be():
    with pytest.raises(SubcloningError, match="it is a decoder"):
        score(bert(is_decoder=True), [batch(None)])
    with pytest.raises(SubcloningError, match="cannot be rotated"):
        score(bert(), [batch(None)], stream=True)

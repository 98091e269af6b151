import pytest
import torch
from conftest import TINY

from harmonica.backbones.dit import DiT
from harmonica.execution import Plain
from harmonica.execution.executor import evaluate
from harmonica.models.loading import load_backbone
from harmonica.models.spec import Model
from harmonica.utils.errors import UserError


@pytest.mark.parametrize("t", [0, 37, 999])
def test_equals_diffusers(tiny, tiny_diffusers, t):
    x, y = torch.randn(4, 4, 4, 4), torch.tensor([0, 4, 5, 2])
    with torch.no_grad():
        theirs = tiny_diffusers(x, timestep=torch.full((4,), t), class_labels=y).sample
        torch.testing.assert_close(evaluate(tiny, x, t, tiny.condition(y), Plain(tiny)), theirs, atol=2e-4, rtol=1e-4)


def test_layout_counts_the_parameters_that_run(tiny):
    """MACs per token of the linear layers are their weights."""
    D = tiny.width
    attention = sum(p.numel() for n, p in tiny.named_parameters() if n in ("qkv.0.weight", "proj.0.weight"))
    tokens = tiny.grid**2
    expected = tokens * attention + 2 * tokens**2 * D + tiny.modulation[0].weight.numel()
    assert tiny.layout.branch_macs[0] == expected


def test_weights_that_do_not_fit(tmp_path, tiny_diffusers):
    model, config = Model("tiny", "tiny", 32, str(tmp_path), "pocket", ""), tmp_path / "transformer" / "config.json"
    with pytest.raises(UserError, match="config.json is missing; tiny needs it"):
        load_backbone(model)
    tiny_diffusers.save_pretrained(config.parent)
    assert len(load_backbone(model).layout.blocks) == 3
    config.write_text(config.read_text().replace('"num_layers": 3', '"num_layers": 4'))
    with pytest.raises(UserError, match="does not contain the weights that its config.json describes"):
        load_backbone(model)


def test_blocks_with_embedders_of_their_own_are_refused(tiny_diffusers):
    state = {k: v.clone() for k, v in tiny_diffusers.state_dict().items()}
    state["transformer_blocks.2.norm1.emb.timestep_embedder.linear_1.bias"] += 1
    with pytest.raises(UserError, match="block 2 has its own"):
        DiT(TINY).load_weights(state)

"""Training of the pocket U-ViT, on the latents of the class-conditional task."""

import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor, nn

from harmonica.backbones.uvit import UViT
from harmonica.execution import Plain
from harmonica.execution.executor import evaluate
from harmonica.pocket.train import Ema, Run
from harmonica.samplers.schedules import SCHEDULES
from harmonica.utils import write_atomic

UVIT = dict(
    img_size=8, patch_size=2, in_chans=4, embed_dim=128, depth=8, num_heads=4, mlp_ratio=4, qkv_bias=False,
    num_classes=11,
)  # fmt: skip


def initialise(model: UViT) -> None:
    """U-ViT's initialisation: normal, σ = 0.02, truncated at ±2."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    nn.init.trunc_normal_(model.pos_embed, std=0.02)


def train_uvit(mean: Tensor, std: Tensor, labels: np.ndarray, checkpoint: Path, steps: int = 7000, lr: float = 1.5e-3):
    """U-ViT on latents (n, 4, 8, 8) of unit variance: the mean squared error of the noise, labels dropped at 10 %,
    Stable Diffusion's noise schedule. The blocks' matrices are trained by Muon. Returns the average of the weights and
    the run."""
    torch.manual_seed(0)
    model = UViT(UVIT).train()
    initialise(model)
    matrices = [p for b in model.blocks for p in b.parameters() if p.ndim == 2]
    ema = Ema(model, 0.9995)
    run = Run(checkpoint, "u-vit", model, mean, lr=lr, steps=steps, ema=ema, muon=matrices)
    bar, batch = torch.from_numpy(SCHEDULES["scaled_linear"].alpha_bar), 128
    signal, sigma = bar.sqrt().float(), (1 - bar).sqrt().float()
    target, plain = torch.from_numpy(labels), Plain(model)
    forward = torch.compile(lambda x, t, y: evaluate(model, x, t, model.condition(y), plain), dynamic=False)
    for _ in run:
        index = torch.randint(len(mean), (batch,))
        x0 = mean[index] + std[index] * torch.randn(batch, *mean.shape[1:])
        y = target[index].masked_fill(torch.rand(batch) < 0.1, model.conditioning.null)
        t = ((torch.arange(batch) + torch.rand(batch)) * (1000 / batch)).long()  # stratified over the batch
        noise = torch.randn(x0.shape)
        x = signal[t].view(-1, 1, 1, 1) * x0 + sigma[t].view(-1, 1, 1, 1) * noise
        x, t, y, noise = run.to(x, t + 1, y, noise)
        run.minimise(F.mse_loss(forward(x, t.float(), y), noise))
    ema.copy_to_module()
    return model.eval(), run


def save_transformer(folder: Path, model: UViT) -> None:
    """`transformer/` with the original's names, of parameters and in the configuration."""
    state = {k: v.contiguous() for k, v in model.state_dict().items()}
    write_atomic(folder / "transformer" / "diffusion_pytorch_model.safetensors", save(state, {"format": "pt"}))
    write_atomic(folder / "transformer" / "config.json", json.dumps(model.config, indent=2) + "\n")

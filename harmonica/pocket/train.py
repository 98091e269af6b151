"""Training of the class-conditional pocket models: autoencoder, classifier, diffusion transformer.

Every stage writes a checkpoint beside its output and resumes from it when restarted.
"""

import json
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline, DiTTransformer2DModel
from torch import nn
from tqdm import tqdm

from harmonica.evaluation.features.classifier import Classifier
from harmonica.pocket import CLASSES
from harmonica.utils import UserError, digest
from harmonica.utils.devices import default_device
from harmonica.utils.images import to_float
from harmonica.utils.torch_files import save_torch

AUTOENCODER = dict(
    in_channels=1, out_channels=1, latent_channels=4, sample_size=32, layers_per_block=1, norm_num_groups=2,
    block_out_channels=(8, 24, 48), mid_block_add_attention=False,
    down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
)  # fmt: skip
TRANSFORMER = dict(
    num_attention_heads=4, attention_head_dim=32, num_layers=8, in_channels=4, out_channels=8, sample_size=8,
    patch_size=2, num_embeds_ada_norm=10, norm_eps=1e-6,
)  # fmt: skip


class Ema:
    """Exponential moving average of a module's parameters, with a warm-up that discounts early steps."""

    def __init__(self, module: nn.Module, decay: float):
        self.decay = decay
        self.params = list(module.parameters())
        self.shadow = [p.detach().clone() for p in self.params]

    @torch.no_grad()
    def update(self, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.shadow, self.params, 1 - decay)

    @torch.no_grad()
    def copy_to_module(self) -> None:
        for p, s in zip(self.params, self.shadow, strict=True):
            p.copy_(s)


def warmup_stable_decay(step: int, steps: int, warmup: int = 200, decay_share: float = 0.3) -> float:
    """Learning-rate factor: linear warm-up, constant, then a linear fall to zero over the last `decay_share`."""
    return min(1.0, (step + 1) / warmup, max(0.0, (steps - step) / (steps * decay_share)))


class Run:
    """Resumable optimisation of `module` to `steps` steps; iterate over it for the remaining steps.

    The module moves to the GPU if there is one; batches are sampled on the CPU, by its generator, and moved with `to`.
    `data` identifies a run: a checkpoint of another recipe or other data is refused with a UserError.
    """

    def __init__(
        self,
        path: Path,
        name: str,
        module: nn.Module,
        data,
        lr: float,
        steps: int,
        weight_decay=0.0,
        ema=None,
        muon=(),
        betas=(0.9, 0.99),
    ):
        self.identity = digest([name, steps, lr, list(data.shape), round(float(data[:500].float().mean()), 4)])
        self.path, self.name, self.module, self.steps, self.lr, self.ema = path, name, module, steps, lr, ema
        self.device = default_device()
        module.to(self.device)
        if ema is not None:
            ema.shadow = self.to(*ema.shadow)
        taken = {id(p) for p in muon}
        rest = [p for p in module.parameters() if id(p) not in taken]
        self.opts = [torch.optim.AdamW(rest, lr=lr, weight_decay=weight_decay, betas=betas, fused=True)]
        if muon:
            self.opts.append(torch.optim.Muon(muon, lr=lr, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"))
        self.step, self.seconds, self.log = 0, 0.0, []
        if path.exists():
            state = torch.load(path, weights_only=True, map_location=self.device)
            if state["identity"] != self.identity:
                raise UserError(f"{path} is of another recipe or other data: delete it, or pass another --work")
            module.load_state_dict(state["module"])
            for opt, saved in zip(self.opts, state["opts"], strict=True):
                opt.load_state_dict(saved)
            self.step, self.seconds, self.log = state["step"], state["seconds"], state["log"]
            if ema is not None:
                for s, saved in zip(ema.shadow, state["ema"], strict=True):
                    s.copy_(saved)
            torch.set_rng_state(state["rng"].cpu())

    def to(self, *batch: torch.Tensor) -> list[torch.Tensor]:
        """The batch on the module's device."""
        return [x.to(self.device, non_blocking=True) for x in batch]

    def save(self) -> None:
        state = {
            "identity": self.identity, "module": self.module.state_dict(), "step": self.step,
            "opts": [opt.state_dict() for opt in self.opts], "log": self.log, "seconds": self.seconds,
            "rng": torch.get_rng_state(),
        }  # fmt: skip
        if self.ema is not None:
            state["ema"] = self.ema.shadow
        save_torch(self.path, state)

    def __iter__(self):
        bar = tqdm(total=self.steps, initial=self.step, desc=self.name, mininterval=5)
        started = time.perf_counter()
        while self.step < self.steps:
            for group in (g for opt in self.opts for g in opt.param_groups):
                group["lr"] = self.lr * warmup_stable_decay(self.step, self.steps)
            yield self.step
            self.step += 1
            bar.update()
            if self.step % 500 == 0 or self.step == self.steps:
                now = time.perf_counter()
                self.seconds, started = self.seconds + now - started, now
                self.save()
        bar.close()

    def minimise(self, loss: torch.Tensor) -> None:
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
        for opt in self.opts:
            opt.step()
            opt.zero_grad(set_to_none=True)
        if self.ema is not None:
            self.ema.update(self.step)
        if self.step % 50 == 0:
            self.log.append((self.step, float(loss.detach())))


def train_autoencoder(
    images: np.ndarray,
    checkpoint: Path,
    steps: int = 5000,
    batch: int = 64,
    kl: float = 3e-4,
    config: dict = AUTOENCODER,
):
    """AutoencoderKL of the images uint8 (n, 32, 32[, C]); L1 + MSE reconstruction and a light KL."""
    torch.manual_seed(0)
    vae = AutoencoderKL(**config)
    data = torch.from_numpy(images)
    run = Run(checkpoint, "autoencoder", vae, data, lr=2e-3, steps=steps)
    for _ in run:
        (x,) = run.to(to_float(data[torch.randint(len(data), (batch,))].numpy()))
        posterior = vae.encode(x).latent_dist
        y = vae.decode(posterior.sample()).sample
        run.minimise((y - x).abs().mean() + F.mse_loss(y, x) + kl * posterior.kl().mean() / (4 * 8 * 8))
    return vae.eval(), run


def critic(channels: int) -> nn.Sequential:
    """A patch discriminator with spectral norm: images (n, C, 32, 32) to scores (n, 1, 8, 8), high for real ones."""

    def conv(i, o, kernel, stride):
        return [nn.utils.parametrizations.spectral_norm(nn.Conv2d(i, o, kernel, stride, 1)), nn.LeakyReLU(0.2)]

    body = conv(channels, 32, 3, 1) + conv(32, 48, 4, 2) + conv(48, 96, 4, 2) + conv(96, 96, 3, 1)
    return nn.Sequential(*body, nn.Conv2d(96, 1, 3, 1, 1))


def tune_decoder(vae: AutoencoderKL, mean, std, images: np.ndarray, checkpoint: Path, steps: int = 2000):
    """Train only the decoder further, against a critic (hinge loss), as latent diffusion's autoencoders are: the plain
    losses miss a tenth of the images' fine texture. The latents (n, 4, 8, 8) stay those of the encoder."""
    torch.manual_seed(2)
    decoder = nn.ModuleDict({"decoder": vae.decoder, "post_quant_conv": vae.post_quant_conv})
    judge = critic(vae.config.in_channels)
    ema = Ema(decoder, 0.99)
    data = torch.from_numpy(images)
    run = Run(
        checkpoint, "decoder", nn.ModuleList([decoder, judge]), data, 1e-3, steps, ema=ema, betas=(0.5, 0.99)
    )  # fmt: skip
    for step in run:
        index = torch.randint(len(data), (64,))
        x, z = run.to(to_float(data[index].numpy()), mean[index] + std[index] * torch.randn(64, *mean.shape[1:]))
        y = vae.decode(z).sample
        loss = (y - x).abs().mean() + F.mse_loss(y, x)
        if step >= 100:  # after a warm-up of the critic
            judge.requires_grad_(False)
            loss = loss - 0.06 * judge(y).mean()
            judge.requires_grad_(True)
        hinge = F.relu(1 - judge(x)).mean() + F.relu(1 + judge(y.detach())).mean()
        run.minimise(loss + hinge)
    ema.copy_to_module()
    return vae.eval(), run


@torch.no_grad()
def encode(vae: AutoencoderKL, images: np.ndarray, batch: int = 500) -> tuple[torch.Tensor, torch.Tensor]:
    """Posterior mean and standard deviation, each (n, 4, 8, 8), unscaled."""
    parts = (to_float(images[i : i + batch]).to(vae.device) for i in range(0, len(images), batch))
    out = [vae.encode(x).latent_dist for x in parts]
    return torch.cat([d.mean for d in out]).cpu(), torch.cat([d.std for d in out]).cpu()


def train_classifier(
    images: np.ndarray, labels: np.ndarray, checkpoint: Path, steps: int = 3500, batch: int = 128, classes: int = 10
):
    """The feature network, trained with small shifts so its features do not depend on single pixels."""
    torch.manual_seed(0)
    net = Classifier(classes, channels=1 if images.ndim == 3 else images.shape[3])
    data, target = torch.from_numpy(images), torch.from_numpy(labels)
    run = Run(checkpoint, "classifier", net, data, lr=2e-3, steps=steps, weight_decay=0.02)
    net.to(memory_format=torch.channels_last)
    for _ in run:
        index = torch.randint(len(data), (batch,))
        dy, dx = torch.randint(-1, 2, (2,)).tolist()
        x, y = run.to(to_float(data[index].roll((dy, dx), (1, 2)).numpy()), target[index])
        run.minimise(F.cross_entropy(net(x)[2], y, label_smoothing=0.05))
    return net.eval(), run


def xavier(model: nn.Module) -> None:
    """Xavier-uniform weights and zero bias in every linear layer; the patch embedding counts as one."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    nn.init.xavier_uniform_(model.pos_embed.proj.weight.view(model.pos_embed.proj.weight.shape[0], -1))


def initialise(model: DiTTransformer2DModel) -> None:
    """DiT's initialisation (Xavier, adaLN-zero, zero output); one embedder shared by all blocks.

    diffusers keeps a copy of the timestep and label embedders in every block; the original has one. They are tied
    here and saved as equal copies.
    """
    xavier(model)
    shared = model.transformer_blocks[0].norm1.emb
    nn.init.normal_(shared.class_embedder.embedding_table.weight, std=0.02)
    nn.init.normal_(shared.timestep_embedder.linear_1.weight, std=0.02)
    nn.init.normal_(shared.timestep_embedder.linear_2.weight, std=0.02)
    for block in model.transformer_blocks:
        block.norm1.emb = shared
        nn.init.zeros_(block.norm1.linear.weight)
        nn.init.zeros_(block.norm1.linear.bias)
    for layer in (model.proj_out_1, model.proj_out_2):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)


class HybridLoss:
    """L_simple + L_vlb with a frozen mean (Nichol & Dhariwal 2021), as DiT trains it: linear betas, 1000 steps."""

    def __init__(self):
        beta = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
        bar = torch.cumprod(1 - beta, 0)
        bar_prev = torch.cat([torch.ones(1, dtype=torch.float64), bar[:-1]])
        posterior = beta * (1 - bar_prev) / (1 - bar)
        self.signal, self.noise = bar.sqrt().float(), (1 - bar).sqrt().float()
        self.log_max = beta.log().float()
        self.log_min = torch.cat([posterior[1:2], posterior[1:]]).log().float()
        # the posterior mean is linear in eps, so the squared distance of means is this times that of eps
        self.eps_to_mean = (beta / ((1 - beta).sqrt() * (1 - bar).sqrt())).float()

    def __call__(self, model, x0: torch.Tensor, **condition) -> torch.Tensor:
        n = len(x0)
        t = ((torch.arange(n) + torch.rand(n)) * (1000 / n)).long()  # stratified over the batch
        noise = torch.randn(x0.shape).to(x0.device)
        at = [
            v[t].view(n, 1, 1, 1).to(x0.device)
            for v in (self.signal, self.noise, self.log_max, self.log_min, self.eps_to_mean)
        ]
        signal, sigma, log_max, log_min, to_mean = at
        eps, v = model(signal * x0 + sigma * noise, timestep=t.to(x0.device), **condition).sample.chunk(2, 1)
        share = (v + 1) / 2
        log_var = share * log_max + (1 - share) * log_min
        gap = (to_mean * (eps.detach() - noise)) ** 2
        kl = 0.5 * (log_var - log_min - 1 + (log_min - log_var).exp() + gap * (-log_var).exp())
        return F.mse_loss(eps, noise) + kl.mean() / math.log(2)


def train_transformer(mean, std, labels: np.ndarray, checkpoint: Path, steps: int = 16000, lr: float = 1e-3):
    """The DiT, on latents (n, 4, 8, 8) already scaled to unit variance. Returns the EMA and its run.

    Label dropout is diffusers' own: `LabelEmbedding` samples it at every call, so per block. The input
    without any label, which guidance needs, is therefore left to `tune_guidance`.
    """
    torch.manual_seed(0)
    model = DiTTransformer2DModel(**TRANSFORMER)
    initialise(model)
    return _fit(model, "transformer", mean, std, labels, checkpoint, steps, lr)


def tune_guidance(model, mean, std, labels: np.ndarray, checkpoint: Path, steps: int = 8000, lr: float = 1.5e-3):
    """Continue `train_transformer` with a label dropout of 10 % of the images, equal in all blocks.

    The blocks' matrices are trained by Muon, which from scratch needed about half the steps of AdamW for equal loss.
    """
    torch.manual_seed(1)
    model.transformer_blocks[0].norm1.emb.class_embedder.dropout_prob = 0.0  # the blocks share it
    matrices = [p for n, p in model.transformer_blocks.named_parameters() if p.ndim == 2 and ".emb." not in n]
    return _fit(model, "guidance", mean, std, labels, checkpoint, steps, lr, label_dropout=0.1, muon=matrices)


def _fit(model, name, mean, std, labels, checkpoint, steps, lr, label_dropout=0.0, muon=(), batch=128):
    ema = Ema(model, 0.9995)
    run = Run(checkpoint, name, model, mean, lr=lr, steps=steps, ema=ema, muon=muon)
    model.train()
    loss_of, target = HybridLoss(), torch.from_numpy(labels)
    null = TRANSFORMER["num_embeds_ada_norm"]
    forward = torch.compile(model, dynamic=False)
    for _ in run:
        index = torch.randint(len(mean), (batch,))
        x0 = mean[index] + std[index] * torch.randn(batch, *mean.shape[1:])
        y = target[index]
        if label_dropout:
            y = y.masked_fill(torch.rand(batch) < label_dropout, null)
        x0, y = run.to(x0, y)
        run.minimise(loss_of(forward, x0, class_labels=y))
    ema.copy_to_module()
    return model.eval(), run


def save_pipeline(folder: Path, vae: AutoencoderKL, model: DiTTransformer2DModel, scale: float) -> None:
    """An ordinary diffusers DiTPipeline folder; the tied embedders become equal copies."""
    own = DiTTransformer2DModel(**TRANSFORMER)
    own.load_state_dict(model.state_dict())
    vae.register_to_config(scaling_factor=scale)
    scheduler = DDIMScheduler(1000, 1e-4, 0.02, "linear", clip_sample=False)
    pipe = DiTPipeline(own, vae.to(memory_format=torch.contiguous_format), scheduler, id2label=dict(enumerate(CLASSES)))
    pipe.save_pretrained(folder, safe_serialization=True)
    index = folder / "model_index.json"  # save_pretrained leaves the classes out, from_pretrained reads them
    record = json.loads(index.read_text("utf-8")) | {"id2label": dict(enumerate(CLASSES))}
    index.write_text(json.dumps(record, indent=2) + "\n", "utf-8")

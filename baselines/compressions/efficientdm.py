"""EfficientDM: Efficient Quantization-Aware Fine-Tuning of Low-Bit Diffusion Models (He et al., ICLR 2024,
arXiv 2310.03270).

- QALoRA: adapters of low rank are added to the weights *before* these are quantised, so they vanish in the integers.
- Their learning rate is a share of the layer's weight scale, so that layers of all scales move by as many grid steps.
- TALSQ: every step of the trajectory has its own scale and zero point for each layer's input.
- Distillation without data: along trajectories of the full model, the squared difference of the guided noises.

It was published for U-Nets. Here, as there, every linear layer is quantised but the joins of long skips; products of
attention, softmax and norms are not. The time embedding and the head have 8 bits, whatever the others have, and no
adapter. The gates of a DiT and the patch embedding are integers in the file, and floats in their product. The published
rate and length, 1/2500 of the scale and 16 000 updates, are the paper scale's; shorter trainings have proportionally
higher rates.
"""

from __future__ import annotations

from dataclasses import dataclass

from harmonica.compression import Compression, CompressionTask, Quantiser
from harmonica.plan import Protocol
from harmonica.utils import setting

UPDATES, SHARE = 16_000, 1 / 2500  # as published
SHORTEST = 400  # updates of a training, below which rates rise no further
WEIGHT_SCALE_LR, ACTIVATION_LR = 1e-6, 5e-4
CALIBRATED = 32  # images whose inputs the scales of activations start from


@dataclass(frozen=True)
class EfficientDM(Quantiser):
    title = "EfficientDM"
    seeded = True

    rank: int | None = setting(None, "of the adapters; default: 32, at the pocket scale 8", at_least=1)
    trajectories: int | None = setting(
        None, "of the training; default: 16 000 updates, at the pocket scale 400", at_least=1
    )
    batch: int | None = setting(None, "images of a trajectory; default: 2, at the pocket scale 8", at_least=1)

    def recipe(self, scale: str, steps: int) -> tuple[int, int, int]:
        """Rank, trajectories and batch."""
        rank, updates, batch = (32, UPDATES, 2) if scale == "paper" else (8, 400, 8)
        return self.rank or rank, self.trajectories or max(1, round(updates / steps)), self.batch or batch

    def work(self, protocol: Protocol, scale: str) -> tuple[float, float]:
        _, trajectories, batch = self.recipe(scale, protocol.steps)
        images = float(trajectories * protocol.steps * batch)
        return images + CALIBRATED * protocol.steps, images

    def make(self, task: CompressionTask) -> Compression:
        import torch
        from tqdm import tqdm

        from harmonica.compression.assemble import tensors_of
        from harmonica.compression.calibration import noise_of, trajectory
        from harmonica.compression.learning import finite
        from harmonica.execution import Guided, Plain

        rank, trajectories, batch = self.recipe(task.model.scale, task.protocol.steps)
        g = torch.Generator().manual_seed(task.seed)
        task.backbone.requires_grad_(False)
        student = Student(self, task, rank, g)
        updates = trajectories * task.protocol.steps
        optimiser = torch.optim.AdamW(student.groups(SHARE * UPDATES / max(updates, SHORTEST)))
        decay = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda k: 1 - k / updates)
        with tqdm(total=updates, desc=task.name, mininterval=5) as bar:
            for _ in range(trajectories):
                for step in trajectory(task, batch, g):
                    student.step = step.s
                    # the keys of captions are quantised, too, so the condition is computed at every update
                    guided = Guided.by(task.protocol, student.backbone, step.labels)
                    output = guided(step.latents, step.t, Plain(student.backbone))
                    loss = finite(noise_of(task, output - step.output).square().sum(), task)
                    optimiser.zero_grad(set_to_none=True)
                    loss.backward()
                    optimiser.step()
                    decay.step()
                    bar.update()
        tensors = tensors_of(task.backbone, student.parts())
        cost = {"images": 0, "updates": updates, "rounds": trajectories}
        return task.compression(tensors, student.described, timesteps=tuple(map(float, task.sampler.timesteps)),
                                cost=cost, notes={"loss": loss.item(), "rank": rank, "batch": batch})  # fmt: skip


class Student:
    """The model with quantised layers that learn; `step` is the one it is evaluated at."""

    def __init__(self, settings: EfficientDM, task: CompressionTask, rank: int, g):
        import torch

        from harmonica.compression.assemble import EDGE_BITS, rounded_weights, static_layer
        from harmonica.compression.calibration import inputs_of
        from harmonica.compression.learning import LoRALinear
        from harmonica.compression.numerics import best_range
        from harmonica.compression.places import Place, described, layers, linear_of, replace

        self.step, self.backbone = 0, task.another(task.precision).requires_grad_(False)
        own = [found for found in layers(self.backbone) if found[2] is not Place.KEPT]
        called = {name: task.backbone.get_submodule(name) for name, _, place in own if place is not Place.WEIGHTS}
        found = inputs_of(task, called, 1, CALIBRATED, max(1, task.protocol.steps // 8))
        self.learning: dict[str, LoRALinear] = {}
        self.fixed: dict[str, dict] = {}
        self.described = {}
        for name, module, place in own:
            bits, scales = (EDGE_BITS, EDGE_BITS), "static"
            if place is Place.WEIGHTS:
                self.fixed[name] = rounded_weights(module)
            elif place is Place.EDGE:
                layer = static_layer(linear_of(self.backbone, name), torch.cat(found.rows[name]))
                self.fixed[name] = {k: v for k, v in layer.named_buffers() if k != "sums"}
                replace(self.backbone, name, layer)
            else:
                bits, scales = settings.width, "static" if place is Place.ONCE else "step"
                start = best_range(torch.cat(found.rows[name]), settings.act_bits)
                count = 1 if place is Place.ONCE else task.protocol.steps
                learned = LoRALinear(linear_of(self.backbone, name), *bits, rank, count, start, lambda: self.step, g)
                self.learning[name] = learned
                replace(self.backbone, name, learned)
            self.described[name] = described(task.model, name, module, place, *bits, scales)

    def groups(self, share: float) -> list[dict]:
        """What AdamW trains, at the rates of every layer."""
        out = []
        for layer in self.learning.values():
            rate = share * float(layer.weight_scale.detach().mean())
            out += [
                {"params": [layer.down, layer.up], "lr": rate},
                {"params": [layer.weight_scale], "lr": WEIGHT_SCALE_LR},
                {"params": [*layer.act_scale, *layer.act_zero], "lr": ACTIVATION_LR},
            ]
        return out

    def parts(self) -> dict[str, dict]:
        """The tensors of every quantised layer, adapters merged."""
        return self.fixed | {name: layer.merged() for name, layer in self.learning.items()}

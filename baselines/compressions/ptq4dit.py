"""PTQ4DiT: Post-training Quantization for Diffusion Transformers (Wu et al., NeurIPS 2024, arXiv 2405.16005).

- Channel-wise salience balancing: inputs of qkv, of the projection after attention and of the first layer of an MLP
  are divided, and their weights multiplied, by the root of the ratio of their largest magnitudes.
- Spearman's ρ-guided calibration: samples whose salience ranks unlike the weight's count more.
- Balancing is folded offline into what computes the input: a DiT's modulation, a U-ViT's norms, the values of
  attention. PixArt's modulation is shared by all blocks: there the division is part of quantising the input.
- Weights have a scale per output channel, activations one per layer for all steps, both of the least error.
- Reconstruction of every block by AdaRound is a setting; the published results have it.

Queries, keys, values and attention maps are not quantised; the published code quantises them, too (8 bits). The gates
of a DiT and the patch embedding are integers of 8 bits in the file, and floats in their product.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from harmonica.compression import Compression, CompressionTask, Quantiser
from harmonica.plan import Protocol
from harmonica.utils import setting


@dataclass(frozen=True)
class PTQ4DiT(Quantiser):
    title = "PTQ4DiT"
    seeded = True

    samples: int = setting(32, "images whose trajectories it is calibrated on", at_least=2)
    balancing: bool = setting(True, "whether channels are balanced")
    reconstruction: int = setting(
        0, "iterations of AdaRound for every block; 20 000 as published, 0 is none", at_least=0
    )

    def work(self, protocol: Protocol, scale: str) -> tuple[float, float]:
        # every iteration passes one block of a batch; all blocks together make updates of the model
        return float(self.samples * protocol.steps), 16.0 * self.reconstruction

    def make(self, task: CompressionTask) -> Compression:
        import torch

        from harmonica.compression.assemble import integers_of, rounded_weights, tensors_of
        from harmonica.compression.balance import balance_of, balanced, fold
        from harmonica.compression.calibration import inputs_of
        from harmonica.compression.numerics import best_range
        from harmonica.compression.places import Place, described, layers

        model = task.another(task.precision).requires_grad_(False)
        own = [found for found in layers(model) if found[2] is not Place.KEPT]
        called = {name: task.backbone.get_submodule(name) for name, _, place in own if place is not Place.WEIGHTS}
        found = inputs_of(task, called, 1, self.samples, max(1, task.protocol.steps // 8))
        factors, divided = {}, {}
        if self.balancing:
            factors = {
                name: balance_of(torch.cat(found.largest[name]), module.weight)
                for name, module, place in own
                if place is Place.STREAM and balanced(name)
            }
            divided = {name: {"balance": b} for name, b in factors.items() if not fold(model, name, b)}
        parts, about = {}, {}
        for name, module, place in own:
            if place is Place.WEIGHTS:
                parts[name] = rounded_weights(module)
                about[name] = described(task.model, name, module, place, 8, 8, "")
                continue
            inputs = torch.cat(found.rows[name]) / factors.get(name, 1.0)
            scale, zero = best_range(inputs, self.act_bits)
            weight = module.weight.float()
            own_parts = integers_of(weight, *best_range(weight, self.weight_bits, 2.0, by_row=True), self.weight_bits)
            own_parts |= {"act_scale": scale.reshape(1), "act_zero": zero.reshape(1)}
            parts[name] = own_parts | divided.get(name, {})
            about[name] = described(task.model, name, module, place, *self.width, "static")
        notes: dict[str, Any] = {"folded": len(factors) - len(divided), "divided": len(divided)}
        if self.reconstruction:
            from baselines.compressions._reconstruction import reconstruct

            notes["reconstruction_error"] = reconstruct(task, model, parts, about, self.reconstruction)
        cost = {"images": 0, "generation_passes": 1}
        return task.compression(tensors_of(model, parts), about, cost=cost, notes=notes)

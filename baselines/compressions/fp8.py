"""Float8 weights and activations without any training, by torchao: the strongest cheap row on a GPU of the Hopper kind.

Weights have a scale per output channel, every row of an activation gets its scale as it comes. The same layers as in
`w8a8` are quantised. It runs on a GPU with float8 products only.
"""

from __future__ import annotations

from dataclasses import dataclass

from harmonica.compression import Compression, CompressionTask, Compressor

LARGEST = 448.0  # of float8 e4m3


@dataclass(frozen=True)
class FP8(Compressor):
    title = "FP8 dynamic"
    gpu = True

    @property
    def width(self) -> tuple[int, int]:
        return 8, 8

    def make(self, task: CompressionTask) -> Compression:
        from harmonica.compression.build import require_float8

        require_float8()
        return self.rounded(task)

    def rounded(self, task: CompressionTask) -> Compression:
        """The compression, made on any device."""
        import torch

        from harmonica.compression.places import Place, described, layers

        tensors, found = task.backbone.state_dict(), {}
        for name, module, place in layers(task.backbone):
            if place not in (Place.STREAM, Place.ONCE):
                continue
            found[name] = described(task.model, name, module, place, 8, 8, "float8")
            weight = tensors.pop(f"{name}.weight").float()
            scale = weight.abs().amax(1).clamp(min=torch.finfo(torch.float32).tiny) / LARGEST
            rounded = (weight / scale[:, None]).to(torch.float8_e4m3fn)
            tensors |= {f"{name}.integers": rounded, f"{name}.weight_scale": scale}
        return task.compression(tensors, found)

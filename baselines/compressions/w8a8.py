"""Int8 weights and activations without any training, by torchao's recipe: the floor of quantisation methods.

Weights are symmetric, with a scale per output channel; every row of an activation gets its scale as it comes
(`Int8DynamicActivationInt8WeightConfig`). The linear layers of the branches are quantised; embeddings, modulation,
gates and head stay as they are: their products have one row per image, too few for the integer kernels of a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass

from harmonica.compression import Compression, CompressionTask, Compressor


@dataclass(frozen=True)
class W8A8(Compressor):
    title = "W8A8 dynamic"

    @property
    def width(self) -> tuple[int, int]:
        return 8, 8

    def make(self, task: CompressionTask) -> Compression:
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

        from harmonica.compression.places import Place, described, layers

        # by default it changes global settings of Inductor, for everything that is compiled later
        config, found = Int8DynamicActivationInt8WeightConfig(set_inductor_config=False), {}
        for name, module, place in layers(task.backbone):
            if place in (Place.STREAM, Place.ONCE):
                found[name] = described(task.model, name, module, place, 8, 8, "token")
        quantize_(task.backbone, config, filter_fn=lambda module, name: name in found)
        tensors = task.backbone.state_dict()
        for name in found:
            weight = tensors.pop(f"{name}.weight")
            tensors |= {f"{name}.integers": weight.qdata, f"{name}.weight_scale": weight.scale.flatten()}
        return task.compression(tensors, found)

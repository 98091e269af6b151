"""The speed of GPUs by their published peaks: seconds of a model's work from its shapes, without running it. No torch.

A time is floating-point operations over peak times EFFICIENCY. The efficiencies are assumptions, typical of these
shapes on an H100: a guided image of DiT-XL/2 takes 1.06 ms at 256² and 4.7 ms at 512² in half precision. None has been
measured by this project yet: `harmonica estimate --measure` times the own device.
"""

from dataclasses import dataclass

from harmonica.models import Model
from harmonica.plan import BranchLayout
from harmonica.utils import unknown


@dataclass(frozen=True)
class GPU:
    """Dense peaks of a data sheet in TFLOP/s, and memory in GiB, as a driver reports it."""

    title: str
    memory: int
    float32: float
    tf32: float
    half: float  # float16 and bfloat16, accumulated in float32
    float64: float


GPUS = {
    "h100": GPU("NVIDIA H100 SXM", 79, 67, 495, 989, 67),
    "h200": GPU("NVIDIA H200 SXM", 139, 67, 495, 989, 67),
    "a100": GPU("NVIDIA A100 SXM", 79, 19.5, 156, 312, 19.5),
    "rtx4090": GPU("NVIDIA GeForce RTX 4090", 24, 82.6, 82.6, 165.2, 1.3),
}
EFFICIENCY = {"float32": 0.75, "tf32": 0.48, "half": 0.45}  # of linear layers, and of attention in half precision
FLOAT32_ATTENTION = 0.67  # of the float32 peak: torch's memory-efficient kernel
UPDATE_PASSES = 3.1  # plain passes of teacher, student and gradient: `harmonica bench training`
CORE_RATE = 0.05  # TFLOP/s of one core of a CPU in small products
# per pixel, of Stable Diffusion's autoencoder, by torch's FLOP counter on fake tensors at 512²
DECODING_MACS, ENCODING_MACS = 4.8e6, 2.13e6
CONVOLUTIONS = 0.35  # of the TF32 peak
NETWORK_MACS = 5.7e9 + 4.4e9  # Inception's and ViT-B/32's, per image


def get_gpu(name: str) -> GPU:
    """The GPU of that name. Raises UserError for an unknown one."""
    if name not in GPUS:
        raise unknown("device", name, GPUS)
    return GPUS[name]


def reference(model: Model) -> "Published | Core":
    """The device by which work is divided into jobs: an H100, or for the shipped models a core."""
    return Published(model, GPUS["h100"]) if model.hub else Core(model)


@dataclass(frozen=True)
class Core:
    """Seconds that one model's work takes on a core of a CPU, by `CORE_RATE`; the interface of `measured.Machine`."""

    model: Model

    def evaluation(self, batch: int, cfg: float, precision: str = "float32", threads: int = 0) -> float:
        """Seconds per image of one plain evaluation, with guidance."""
        return 2e-12 * (1 if cfg == 1.0 else 2) * self.model.layout.macs / CORE_RATE

    def update(self, batch: int, cfg: float, precision: str = "float32") -> float:
        """Seconds per image of one update."""
        return UPDATE_PASSES * self.evaluation(batch, cfg)

    def decoding(self, batch: int) -> float:
        """Seconds per image: the shipped autoencoders take less than one evaluation."""
        return self.evaluation(batch, 1.0)

    def encoding(self) -> float:
        """Seconds per image."""
        return self.evaluation(1, 1.0)

    def features(self, batch: int = 100) -> float:
        """Seconds per image; the shipped networks are smaller than the models."""
        return self.evaluation(batch, 1.0)

    def distances(self, images: int) -> float:
        """Seconds of the metrics of this many images: pairs of features of 128 numbers."""
        return 2e-12 * (images * 10_000 + images**2) * 128 / CORE_RATE


@dataclass(frozen=True)
class Published:
    """Seconds that one model's work takes on a GPU; the interface of `measured.Machine`."""

    model: Model
    gpu: GPU

    def evaluation(self, batch: int, cfg: float, precision: str = "float32", threads: int = 0) -> float:
        """Seconds per image of one plain evaluation, with guidance."""
        layout: BranchLayout = self.model.layout
        halves, kind = (1 if cfg == 1.0 else 2), precision if precision in ("float32", "tf32") else "half"
        attention = layout.attention_macs
        rates = {"float32": self.gpu.float32, "tf32": self.gpu.tf32, "half": self.gpu.half}
        linear = rates[kind] * EFFICIENCY[kind]
        products = self.gpu.half * EFFICIENCY["half"]  # also of attention in TF32, see backbones/layers.py
        if kind == "float32":
            products = self.gpu.float32 * FLOAT32_ATTENTION
        return 2e-12 * halves * ((layout.macs - attention) / linear + attention / products)

    def update(self, batch: int, cfg: float, precision: str = "float32") -> float:
        """Seconds per image of one update: teacher, student, and gradient of a row of logits."""
        return UPDATE_PASSES * self.evaluation(batch, cfg, precision)

    def decoding(self, batch: int) -> float:
        """Seconds per image."""
        return 2e-12 * DECODING_MACS * self.model.resolution**2 / (self.gpu.tf32 * CONVOLUTIONS)

    def encoding(self) -> float:
        """Seconds per image."""
        return 2e-12 * ENCODING_MACS * self.model.resolution**2 / (self.gpu.tf32 * CONVOLUTIONS)

    def features(self, batch: int = 100) -> float:
        """Seconds per image, feature networks in float32."""
        return 2e-12 * NETWORK_MACS / (self.gpu.float32 * CONVOLUTIONS)

    def distances(self, images: int) -> float:
        """Seconds of the metrics of this many images: pairs of features in float64, covariances, two square roots."""
        d, references = 2048, 10_000
        pairs = 2 * (images * references + images**2) * d
        eigen = 60 * d**3  # four symmetric eigenvalue problems, which a GPU runs at a tenth of its peak
        return 1e-12 * (pairs / EFFICIENCY["float32"] + 10 * eigen) / self.gpu.float64

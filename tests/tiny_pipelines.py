"""diffusers' pipelines at small random sizes, called with random prompt embeddings."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import diffusers
import torch
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler

STEPS = 6
TOKENS = 5  # of a prompt


@dataclass
class Tiny:
    """A pipeline, the arguments of a call for one prompt, and its evaluations a step."""

    pipe: Any
    arguments: dict[str, Any]
    per_step: int = 1  # evaluations
    merged: bool = False  # single-stream blocks after double-stream ones have other streams

    def __call__(self, seed: int = 0, **more: Any) -> torch.Tensor:
        given = {"num_inference_steps": STEPS, "output_type": "latent", "return_dict": False} | self.arguments | more
        return self.pipe(generator=torch.Generator().manual_seed(seed), **given)[0]


def _made(cls: Any, **config: Any) -> Any:
    """A transformer with random weights, none of which are 0 as at the start of a training."""
    torch.manual_seed(0)
    model = cls(**config).eval().requires_grad_(False)
    for p in model.parameters():
        p.add_(0.05 * torch.randn_like(p))
    return model


def _random(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _prompts(channels: int) -> dict[str, torch.Tensor]:
    return {
        "prompt_embeds": _random(1, TOKENS, channels), "negative_prompt_embeds": _random(1, TOKENS, channels, seed=2),
    }  # fmt: skip


def _masks(name: str = "prompt_attention_mask") -> dict[str, torch.Tensor]:
    mask = torch.ones(1, TOKENS, dtype=torch.long)
    return {name: mask, f"negative_{name}": mask}


def flux() -> Tiny:
    transformer = _made(
        diffusers.FluxTransformer2DModel, patch_size=1, in_channels=16, num_layers=2, num_single_layers=2,
        attention_head_dim=16, num_attention_heads=2, joint_attention_dim=24, pooled_projection_dim=8,
        guidance_embeds=True, axes_dims_rope=(4, 4, 8),
    )  # fmt: skip
    pipe = diffusers.FluxPipeline(FlowMatchEulerDiscreteScheduler(), None, None, None, None, None, transformer)
    about = {"prompt_embeds": _random(1, TOKENS, 24), "pooled_prompt_embeds": _random(1, 8)}
    return Tiny(pipe, about | {"height": 64, "width": 64})


def sd3() -> Tiny:
    transformer = _made(
        diffusers.SD3Transformer2DModel, sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=3,
        attention_head_dim=8, num_attention_heads=2, joint_attention_dim=24, caption_projection_dim=16,
        pooled_projection_dim=8, pos_embed_max_size=8, dual_attention_layers=(0,), qk_norm="rms_norm",
    )  # fmt: skip
    pipe = diffusers.StableDiffusion3Pipeline(transformer, FlowMatchEulerDiscreteScheduler(), *[None] * 7)
    pooled = {"pooled_prompt_embeds": _random(1, 8), "negative_pooled_prompt_embeds": _random(1, 8, seed=2)}
    return Tiny(pipe, _prompts(24) | pooled | {"height": 64, "width": 64})


def sana() -> Tiny:
    transformer = _made(
        diffusers.SanaTransformer2DModel, in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=8,
        num_layers=3, num_cross_attention_heads=2, cross_attention_head_dim=8, cross_attention_dim=16,
        caption_channels=24, sample_size=8,
    )  # fmt: skip
    scheduler = DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    pipe = diffusers.SanaPipeline(None, None, None, transformer, scheduler)
    about = {"height": 256, "width": 256, "use_resolution_binning": False, "negative_prompt": None}
    return Tiny(pipe, _prompts(24) | _masks() | about)


def aura_flow() -> Tiny:
    transformer = _made(
        diffusers.AuraFlowTransformer2DModel, sample_size=8, patch_size=2, in_channels=4, out_channels=4,
        num_mmdit_layers=2, num_single_dit_layers=2, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=24, caption_projection_dim=16, pos_embed_max_size=64,
    )  # fmt: skip
    pipe = diffusers.AuraFlowPipeline(None, None, None, transformer, FlowMatchEulerDiscreteScheduler())
    return Tiny(pipe, _prompts(24) | _masks() | {"height": 64, "width": 64}, merged=True)


def hunyuan_dit() -> Tiny:
    transformer = _made(
        diffusers.HunyuanDiT2DModel, num_attention_heads=2, attention_head_dim=8, in_channels=4, patch_size=2,
        sample_size=8, hidden_size=16, num_layers=4, mlp_ratio=2.0, cross_attention_dim=24, cross_attention_dim_t5=16,
        pooled_projection_dim=8, text_len=TOKENS, text_len_t5=TOKENS,
    )  # fmt: skip
    pipe = diffusers.HunyuanDiTPipeline(None, None, None, transformer, DDPMScheduler(), None, None, False)
    second = {
        "prompt_embeds_2": _random(1, TOKENS, 16), "negative_prompt_embeds_2": _random(1, TOKENS, 16, seed=2),
    } | _masks(name="prompt_attention_mask_2")  # fmt: skip
    about = {"height": 64, "width": 64, "use_resolution_binning": False}
    return Tiny(pipe, _prompts(24) | _masks() | second | about)


def cogvideox() -> Tiny:
    transformer = _made(
        diffusers.CogVideoXTransformer3DModel, num_attention_heads=2, attention_head_dim=8, in_channels=4,
        out_channels=4, time_embed_dim=8, text_embed_dim=24, num_layers=3, sample_width=8, sample_height=8,
        sample_frames=5, max_text_seq_length=TOKENS,
    )  # fmt: skip
    pipe = diffusers.CogVideoXPipeline(None, None, None, transformer, diffusers.CogVideoXDDIMScheduler())
    return Tiny(pipe, _prompts(24) | {"height": 64, "width": 64, "num_frames": 5})


def wan() -> Tiny:
    transformer = _made(
        diffusers.WanTransformer3DModel, num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4,
        text_dim=24, freq_dim=16, ffn_dim=32, num_layers=3, rope_max_seq_len=32,
    )  # fmt: skip
    pipe = diffusers.WanPipeline(None, None, None, FlowMatchEulerDiscreteScheduler(), transformer)
    return Tiny(pipe, _prompts(24) | {"height": 64, "width": 64, "num_frames": 5}, per_step=2)


def lumina() -> Tiny:
    transformer = _made(
        diffusers.LuminaNextDiT2DModel, sample_size=8, patch_size=2, in_channels=4, hidden_size=16, num_layers=3,
        num_attention_heads=2, num_kv_heads=1, multiple_of=16, cross_attention_dim=24,
    )  # fmt: skip
    pipe = diffusers.LuminaPipeline(transformer, FlowMatchEulerDiscreteScheduler(), None, None, None)
    return Tiny(pipe, _prompts(24) | _masks() | {"height": 64, "width": 64})


def lumina2() -> Tiny:
    transformer = _made(
        diffusers.Lumina2Transformer2DModel, sample_size=8, patch_size=2, in_channels=4, hidden_size=24, num_layers=3,
        num_refiner_layers=1, num_attention_heads=2, num_kv_heads=1, multiple_of=16, axes_dim_rope=(4, 4, 4),
        axes_lens=(16, 16, 16), cap_feat_dim=24,
    )  # fmt: skip
    pipe = diffusers.Lumina2Pipeline(transformer, FlowMatchEulerDiscreteScheduler(), None, None, None)
    return Tiny(pipe, _prompts(24) | _masks() | {"height": 64, "width": 64}, per_step=2)


def qwen_image() -> Tiny:
    transformer = _made(
        diffusers.QwenImageTransformer2DModel, patch_size=2, in_channels=16, out_channels=4, num_layers=3,
        attention_head_dim=16, num_attention_heads=2, joint_attention_dim=24, axes_dims_rope=(4, 4, 8),
    )  # fmt: skip
    pipe = diffusers.QwenImagePipeline(FlowMatchEulerDiscreteScheduler(), None, None, None, transformer)
    about = _prompts(24) | _masks(name="prompt_embeds_mask") | {"height": 64, "width": 64}
    return Tiny(pipe, about, per_step=2)


BUILDERS: dict[str, Callable[[], Tiny]] = {
    f.__name__: f
    for f in (flux, sd3, sana, aura_flow, hunyuan_dit, cogvideox, wan, lumina, lumina2, qwen_image)
}  # fmt: skip


@functools.cache
def tiny(name: str) -> Tiny:
    """The pipeline of a family, without a progress bar."""
    made = BUILDERS[name]()
    made.pipe.set_progress_bar_config(disable=True)
    return made

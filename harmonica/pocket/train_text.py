"""Training of the text-to-image pocket models: a two-tower model for the CLIP score, PixArt with its text encoder."""

import json
from pathlib import Path

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, PixArtAlphaPipeline, PixArtTransformer2DModel
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

from harmonica.pocket.emoji import Caption
from harmonica.pocket.train import AUTOENCODER, Ema, HybridLoss, Run, xavier

TEXT_TOKENS = 24
AUTOENCODER_RGB = AUTOENCODER | dict(in_channels=3, out_channels=3, norm_num_groups=4, block_out_channels=(16, 32, 64))
TRANSFORMER = dict(
    num_attention_heads=5, attention_head_dim=32, num_layers=8, in_channels=4, out_channels=8, sample_size=8,
    patch_size=2, cross_attention_dim=160, caption_channels=128, norm_type="ada_norm_single", norm_eps=1e-6,
)  # fmt: skip
TEXT_ENCODER = dict(
    d_model=128, d_kv=32, num_heads=4, d_ff=256, num_layers=2, feed_forward_proj="gated-gelu", dropout_rate=0.0,
    pad_token_id=0, eos_token_id=1,
)  # fmt: skip
CLIP = dict(
    embed_dim=128,
    vision_cfg=dict(image_size=64, layers=[1, 1, 1, 1], width=16, head_width=32),
    text_cfg=dict(context_length=24, vocab_size=49408, width=64, heads=2, layers=2),
)  # fmt: skip
CLIP_PREPROCESS = dict(
    size=64, mode="RGB", mean=open_clip.OPENAI_DATASET_MEAN, std=open_clip.OPENAI_DATASET_STD, interpolation="bicubic",
    resize_mode="shortest", fill_color=0,
)  # fmt: skip


def sampling_weights(captions: list[Caption]) -> Tensor:
    """Of each picture (n,): an emoji with k skin tones weighs √k in total."""
    bases = [c.base for c in captions]
    count = {b: bases.count(b) for b in set(bases)}
    return torch.tensor([count[b] ** -0.5 for b in bases])


def with_colour(c: Caption) -> str:
    return f"{c.colour} {c.caption}" if c.colour else c.caption


def train_clip(images: np.ndarray, captions: list[Caption], checkpoint: Path, steps: int = 3000, batch: int = 256):
    """open_clip's CLIP on pictures uint8 (n, 32, 32, 3) and captions, with shifts; some captions name the colour."""
    torch.manual_seed(0)
    model = open_clip.CLIP(**CLIP, output_dict=True)
    prepare = open_clip.image_transform(64, is_train=False, interpolation="bicubic")
    from PIL import Image

    data = torch.stack([prepare(Image.fromarray(x)) for x in images])
    tokenize = open_clip.SimpleTokenizer(context_length=CLIP["text_cfg"]["context_length"])
    text = torch.stack([tokenize([c.caption for c in captions]), tokenize([with_colour(c) for c in captions])])
    weights, loss_of = sampling_weights(captions), open_clip.ClipLoss()
    run = Run(checkpoint, "clip", model, data, lr=2e-3, steps=steps, weight_decay=0.2)
    model.train()
    for _ in run:
        index = torch.multinomial(weights, batch)
        tokens = text[(torch.rand(batch) < 0.3).long(), index]
        dy, dx = torch.randint(-3, 4, (2,)).tolist()
        x = F.pad(data[index], (3, 3, 3, 3), mode="replicate")[..., 3 + dy : 67 + dy, 3 + dx : 67 + dx]
        out = model(*run.to(x + 0.1 * torch.randn(batch, 1, 1, 1), tokens))
        run.minimise(loss_of(out["image_features"], out["text_features"], out["logit_scale"]))
        with torch.no_grad():
            model.logit_scale.clamp_(0, 4.6)
    model.eval()
    seen = torch.zeros(CLIP["text_cfg"]["vocab_size"], dtype=torch.bool)
    seen[text.flatten()] = True
    model.token_embedding.weight.data[~seen] = 0  # untrained tokens carry no information
    return model, run


def save_clip(folder: Path, model: nn.Module) -> None:
    """A folder that open_clip reads as `local-dir:`."""
    folder.mkdir(parents=True)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "open_clip_model.safetensors")
    config = {"model_cfg": CLIP, "preprocess_cfg": CLIP_PREPROCESS}
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=1) + "\n", "utf-8")


def make_tokenizer(captions: list[Caption]) -> PreTrainedTokenizerFast:
    """A T5-like unigram tokenizer (pad 0, end of sentence 1, unknown 2) of the captions' words."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=1500, special_tokens=special, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator([with_colour(c) for c in captions], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=512
    )


def initialise(model: PixArtTransformer2DModel) -> None:
    """PixArt's initialisation: Xavier; zero at the end of each cross-attention and of the model."""
    xavier(model)
    time, text = model.adaln_single, model.caption_projection
    for layer in (time.emb.timestep_embedder.linear_1, time.emb.timestep_embedder.linear_2, time.linear,
                  text.linear_1, text.linear_2):  # fmt: skip
        nn.init.normal_(layer.weight, std=0.02)
    for layer in [b.attn2.to_out[0] for b in model.transformer_blocks] + [model.proj_out]:
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)


def train_text_to_image(
    mean: Tensor, std: Tensor, captions: list[Caption], tokenizer, checkpoint: Path, steps: int = 6000,
    lr: float = 1.5e-3, batch: int = 64,
) -> tuple[PixArtTransformer2DModel, T5EncoderModel, Run]:  # fmt: skip
    """PixArt and its text encoder together, on latents (n, 4, 8, 8) of unit variance; captions dropped at 10 %.

    The blocks' matrices, and those of the text encoder, are trained by Muon. Returns the averages.
    """
    torch.manual_seed(0)
    text_encoder = T5EncoderModel(T5Config(vocab_size=len(tokenizer), **TEXT_ENCODER))
    model = PixArtTransformer2DModel(**TRANSFORMER)
    initialise(model)
    both = nn.ModuleDict({"transformer": model, "text_encoder": text_encoder}).train()
    inner = [*model.transformer_blocks.named_parameters(), *text_encoder.encoder.block.named_parameters()]
    matrices = [p for name, p in inner if p.ndim == 2 and "table" not in name and "relative" not in name]
    ema = Ema(both, 0.9995)
    run = Run(checkpoint, "text-to-image", both, mean, lr=lr, steps=steps, ema=ema, muon=matrices)
    options = dict(padding="max_length", max_length=TEXT_TOKENS, truncation=True, return_tensors="pt")
    texts = [[c.caption for c in captions], [with_colour(c) for c in captions], [""] * len(captions)]
    tokens = [tokenizer(t, **options) for t in texts]
    ids, mask = (torch.stack([t[k] for t in tokens]) for k in ("input_ids", "attention_mask"))
    weights, loss_of = sampling_weights(captions), HybridLoss()
    added = {"resolution": None, "aspect_ratio": None}
    forward = torch.compile(model, dynamic=False)
    for _ in run:
        index = torch.multinomial(weights, batch, replacement=True)
        x0 = mean[index] + std[index] * torch.randn(batch, *mean.shape[1:])
        u = torch.rand(batch)
        which = torch.where(u < 0.1, 2, torch.where(u < 0.4, 1, 0))
        x0, tokens, own = run.to(x0, ids[which, index], mask[which, index])
        text = text_encoder(tokens, attention_mask=own).last_hidden_state
        run.minimise(
            loss_of(forward, x0, encoder_hidden_states=text, encoder_attention_mask=own, added_cond_kwargs=added)
        )
    ema.copy_to_module()
    both.eval()
    return model, text_encoder, run


def save_pipeline(folder: Path, vae: AutoencoderKL, model, text_encoder, tokenizer, scale: float) -> None:
    """An ordinary diffusers PixArtAlphaPipeline folder."""
    vae.register_to_config(scaling_factor=scale)
    scheduler = DPMSolverMultistepScheduler(1000, 1e-4, 0.02, "linear")
    vae = vae.to(memory_format=torch.contiguous_format)
    PixArtAlphaPipeline(tokenizer, text_encoder, vae, model, scheduler).save_pretrained(folder, safe_serialization=True)

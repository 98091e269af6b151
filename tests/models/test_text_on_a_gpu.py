"""The encoders of the paper scale at their true shape, on tensors of a GPU without data."""

import pytest
import torch
from fake_gpu import GIB, fake
from transformers import AutoTokenizer, T5Config, T5EncoderModel

from harmonica.models import get_model
from harmonica.models.loading import text_encoder
from harmonica.models.random_weights import build_autoencoder
from harmonica.models.training_images import BATCH_PIXELS, posterior

T5_XXL = dict(
    d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64, feed_forward_proj="gated-gelu", vocab_size=32128
)


def t5() -> T5EncoderModel:
    """T5-XXL v1.1 as `from_pretrained` loads it in half precision, where it keeps some weights in float32."""
    model = T5EncoderModel(T5Config(**T5_XXL)).eval()
    for name, p in model.named_parameters():
        if not any(f".{kept}." in name for kept in T5EncoderModel._keep_in_fp32_modules):
            p.data = p.data.half()
    return model


@pytest.mark.parametrize("tokens", [120, 300])
def test_t5_encodes_captions(tokens):
    tokenizer = AutoTokenizer.from_pretrained(get_model("pocket-pixart").folder("tokenizer"))
    with fake() as peak:
        encoder = t5()
        assert encoder.shared.weight.dtype == torch.float16 and sum(p.numel() for p in encoder.parameters()) > 4.5e9
        with torch.device("cpu"):  # where a tokenizer makes its tensors
            embeddings, mask = text_encoder(tokenizer, encoder, tokens)(["A red heart "] * 49 + [""])
        assert embeddings.shape == (50, tokens, 4096) and mask.shape == (50, tokens)
        assert embeddings.dtype == torch.float16 and embeddings.is_cuda and mask.is_cuda
    assert peak.most < 30 * GIB


@pytest.mark.parametrize("name", ["dit-xl-2-256", "dit-xl-2-512"])
def test_the_autoencoder_encodes_images(name):
    side = get_model(name).resolution
    with fake() as peak:
        vae = build_autoencoder(get_model(name))
        own = BATCH_PIXELS // side**2
        for images in (own, 32):
            pixels = torch.zeros(images, side, side, 3, dtype=torch.uint8, device="cpu")
            found = posterior(vae, pixels)
            assert found.shape == (images, 8, side // 8, side // 8)
            assert found.dtype == torch.float16 and found.device.type == "cpu"
            if images == own:
                assert peak.most < 8 * GIB

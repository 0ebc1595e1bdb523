"""A nano model: random weights in exact diffusers layout, 32 x 32 pictures, 8 x 8 x 4 latents, a word tokenizer."""

import json

import pytest
import torch


def slopes(amount, rng):
    """Pictures brighter on the left where `amount` > 0, else on the right: [n] to [n, 3, 32, 32]. Group norm forgets plain brightness."""
    left = torch.cat([torch.ones(16), -torch.ones(16)])
    return amount[:, None, None, None] * left.expand(len(amount), 3, 32, 32) + 0.1 * torch.randn(len(amount), 3, 32, 32, generator=rng)


def teach_slopes(vae, steps=60):
    """A few seconds: enough for what is encoded as bright on the left to be decoded so."""
    optimiser, rng = torch.optim.Adam(vae.parameters(), 1e-2), torch.Generator().manual_seed(1)
    for _ in range(steps):
        x = slopes(torch.rand(8, generator=rng) * 1.6 - 0.8, rng)
        mean = vae.encode(x).latent_dist.mean
        loss = (vae.decode(mean + 0.3 * torch.randn(mean.shape, generator=rng)).sample - x).square().mean() + 1e-2 * mean.square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return loss.item()


@pytest.fixture(scope="session")
def nano_folder(tmp_path_factory):
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.set_num_threads(1)
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("nano") / "model"
    UNet2DConditionModel(
        sample_size=8, layers_per_block=1, block_out_channels=(16, 32), down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), norm_num_groups=8, cross_attention_dim=16, attention_head_dim=2,
    ).save_pretrained(folder / "unet")  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 16), down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1, latent_channels=4, norm_num_groups=4, sample_size=32, scaling_factor=1.0, mid_block_add_attention=False,
    )  # fmt: skip
    teach_slopes(vae)
    vae.save_pretrained(folder / "vae")
    DDIMScheduler(
        beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing",
        clip_sample=False, set_alpha_to_one=True,
    ).save_pretrained(folder / "scheduler")  # fmt: skip
    words = ["<|startoftext|>", "<|endoftext|>", *[chr(c) for c in range(97, 123)], *[chr(c) + "</w>" for c in range(97, 123)]]
    text = CLIPTextConfig(
        vocab_size=len(words), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=12, projection_dim=16, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    CLIPTextModel(text).save_pretrained(folder / "text_encoder")
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "vocab.json").write_text(json.dumps({w: i for i, w in enumerate(words)}))
    (folder / "tokenizer" / "merges.txt").write_text("#version: 0.2\n")
    CLIPTokenizer(
        vocab=str(folder / "tokenizer" / "vocab.json"), merges=str(folder / "tokenizer" / "merges.txt"), model_max_length=12,
        pad_token="<|endoftext|>", unk_token="<|endoftext|>",
    ).save_pretrained(folder / "tokenizer")  # fmt: skip
    (folder / "model_index.json").write_text(
        json.dumps({
            "_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"],
            "text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"],
            "scheduler": ["diffusers", "DDIMScheduler"], "safety_checker": [None, None], "feature_extractor": [None, None],
        })
    )  # fmt: skip
    return folder

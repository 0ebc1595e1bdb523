"""Small random models in real layouts, saved by diffusers itself. Graphs are exported once and kept by pytest's cache."""

import json
import os
import string
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")

WORDS = (
    "a",
    "red",
    "blue",
    "heart",
    "cat",
    "dog",
    "face",
    "smiling",
    "woman",
    "doctor",
    "pizza",
    "skin",
    "tone",
    "dark",
    "of",
    "i'm",
    "don't",
    "2024",
)


def write_tokenizer(folder: Path, length: int, *, as_json: bool) -> None:
    """A byte-level BPE in CLIP's format; as tokenizer.json, or as Stable Diffusion 1.5 has it."""
    from transformers import CLIPTokenizer
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    alphabet = list(bytes_to_unicode().values())
    vocab = alphabet + [f"{c}</w>" for c in alphabet]
    merges = []
    for word in WORDS:
        pieces = [*word[:-1], f"{word[-1]}</w>"]
        while len(pieces) > 1:
            merge = (pieces[0], pieces[1])
            if merge not in merges:
                merges.append(merge)
            pieces = ["".join(merge), *pieces[2:]]
            if pieces[0] not in vocab:
                vocab.append(pieces[0])
    assert set(string.ascii_lowercase) <= set(vocab)
    table = {token: i for i, token in enumerate([*vocab, "<|startoftext|>", "<|endoftext|>"])}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(table))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    if as_json:
        tokenizer = CLIPTokenizer(
            vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"), model_max_length=length, pad_token="<|endoftext|>"
        )
        tokenizer.save_pretrained(folder)
        (folder / "vocab.json").unlink()
        (folder / "merges.txt").unlink()
    else:
        special = {"bos_token": {"content": "<|startoftext|>"}, "eos_token": {"content": "<|endoftext|>"}, "pad_token": "<|endoftext|>"}
        (folder / "special_tokens_map.json").write_text(json.dumps(special))
        (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": length, "tokenizer_class": "CLIPTokenizer"}))


def _save(folder: Path, unet, vae, text, scheduler, length: int, *, as_json: bool, variant: str | None = None) -> Path:
    from diffusers import StableDiffusionPipeline
    from transformers import CLIPTokenizer

    write_tokenizer(folder / "tokenizer", length, as_json=as_json)
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    pipeline = StableDiffusionPipeline(
        vae=vae, unet=unet, text_encoder=text, tokenizer=tokenizer, scheduler=scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    kept = {path.name: path.read_bytes() for path in (folder / "tokenizer").iterdir()}
    pipeline.save_pretrained(folder, variant=variant)
    for path in (folder / "tokenizer").iterdir():
        path.unlink()
    for name, data in kept.items():
        (folder / "tokenizer" / name).write_bytes(data)
    return folder


def _text_encoder(length: int, width: int, layers: int):
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        vocab_size=800, hidden_size=width, num_hidden_layers=layers, num_attention_heads=4, intermediate_size=4 * width,
        max_position_embeddings=length, bos_token_id=798, eos_token_id=799, pad_token_id=1, projection_dim=width,
    )  # fmt: skip
    return CLIPTextModel(config)


@pytest.fixture(scope="session")
def cache(request: pytest.FixtureRequest) -> Path:
    """Graphs hold no weights, so they are valid from run to run."""
    return request.config.cache.mkdir("salon-graphs")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packaged model's layout at a quarter of its width, with fp16 weights on disk."""
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(16, 32), layers_per_block=1,
        attention_head_dim=2, norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=32,
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(8, 16, 16), down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,        latent_channels=4, norm_num_groups=8, sample_size=32, scaling_factor=1.0, mid_block_add_attention=False,
    )  # fmt: skip
    scheduler = DDIMScheduler(
        beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing",
        clip_sample=False, set_alpha_to_one=True, steps_offset=1,
    )  # fmt: skip
    text = _text_encoder(20, 32, 2)
    for part in (unet, vae, text):
        part.half()
    return _save(tmp_path_factory.mktemp("models") / "tiny", unet, vae, text, scheduler, 20, as_json=True)


@pytest.fixture(scope="session")
def stable_diffusion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stable Diffusion 1.5's exact layout and configuration, only narrower and smaller: random weights, saved as it is on the hub."""
    import torch
    from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel

    torch.manual_seed(1)
    unet = UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(8, 16, 32, 32), layers_per_block=2, attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",), up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        cross_attention_dim=24, norm_num_groups=8,
        act_fn="silu", center_input_sample=False, downsample_padding=1, flip_sin_to_cos=True, freq_shift=0,
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(8, 16, 16, 16), down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2, latent_channels=4, norm_num_groups=8, sample_size=64,
    )  # fmt: skip
    scheduler = PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000, set_alpha_to_one=False,
        skip_prk_steps=True,         steps_offset=1,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("models") / "stable-diffusion"
    _save(folder, unet, vae, _text_encoder(77, 24, 2), scheduler, 77, as_json=False, variant="fp16")
    path = folder / "scheduler/scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"clip_sample": False}))  # as the hub's file says
    return folder


def _save_parts(folder: Path, pipeline, tokenizers: dict[str, int]) -> Path:
    """Save a pipeline whose CLIP tokenizers, by folder and token that pads, are ours."""
    pipeline.save_pretrained(folder)
    for name, length in tokenizers.items():
        for path in (folder / name).iterdir():
            path.unlink()
        write_tokenizer(folder / name, length, as_json=name == "tokenizer")
        if name == "tokenizer_2":  # the hub's second tokenizer pads with an exclamation mark, its first with the end
            for file in ("special_tokens_map.json", "tokenizer_config.json"):
                told = json.loads((folder / name / file).read_text())
                (folder / name / file).write_text(json.dumps(told | {"pad_token": "!"}))
    return folder


def _projected(length: int, width: int, layers: int, projection: int, *, legacy_end: bool):
    from transformers import CLIPTextModelWithProjection

    config = _text_encoder(length, width, layers).config
    # the hub's configurations say 2 for the end, which transformers reads as "the largest id"
    config.projection_dim, config.eos_token_id, config.hidden_act = projection, 2 if legacy_end else 799, "gelu"
    return CLIPTextModelWithProjection(config)


def _tokenizer(folder: Path, length: int):
    from transformers import CLIPTokenizer

    write_tokenizer(folder, length, as_json=True)
    return CLIPTokenizer.from_pretrained(folder)


def _exported(folder: Path, cache: Path) -> Path:
    """Graphs where `graphs_folder` looks for them, made in this process: another would import torch and diffusers once more."""
    from serving.export import export_directory
    from serving.model import _architecture, open_model

    model = open_model(str(folder), cache)
    place = cache / "graphs" / _architecture(model)
    if not all((place / f"{graph}.json").is_file() for graph in model.layout.graphs):
        export_directory(folder, place)
    return folder


@pytest.fixture(scope="session")
def sdxl(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """Stable Diffusion XL's exact layout and configuration, only narrower and smaller: random weights."""
    import torch
    from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel

    torch.manual_seed(2)
    unet = UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(8, 16, 32), layers_per_block=1, attention_head_dim=(2, 4, 8),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), transformer_layers_per_block=(1, 1, 2),
        cross_attention_dim=24 + 40, norm_num_groups=8, use_linear_projection=True, addition_embed_type="text_time",
        addition_time_embed_dim=8, projection_class_embeddings_input_dim=20 + 6 * 8,
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(8, 16, 16), down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1, latent_channels=4, norm_num_groups=8, sample_size=64, scaling_factor=0.13025, force_upcast=False,
    )  # fmt: skip
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing="leading", steps_offset=1
    )
    folder = tmp_path_factory.mktemp("models") / "sdxl"
    pipeline = StableDiffusionXLPipeline(
        vae=vae, unet=unet, text_encoder=_text_encoder(77, 24, 3), text_encoder_2=_projected(77, 40, 2, 20, legacy_end=True),
        tokenizer=_tokenizer(folder / "tokenizer", 77), tokenizer_2=_tokenizer(folder / "tokenizer_2", 77), scheduler=scheduler,
        add_watermarker=False,
    )  # fmt: skip
    return _exported(_save_parts(folder, pipeline, {"tokenizer": 77, "tokenizer_2": 77}), cache)


def _t5_tokenizer():
    """A Unigram tokenizer in T5's format: pieces of words with their log probabilities."""
    from transformers import T5Tokenizer

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [(letter, -5.0) for letter in string.ascii_lowercase + string.digits + "',."]
    pieces += [(f"▁{word}", -3.0 - 0.1 * i) for i, word in enumerate(WORDS)]
    return T5Tokenizer(vocab=pieces, extra_ids=0)


@pytest.fixture(scope="session")
def dit(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """Stable Diffusion 3's exact layout and configuration, only narrower and smaller: random weights, T5 included."""
    import torch
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
    from transformers import T5Config, T5EncoderModel

    torch.manual_seed(3)
    transformer = SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=16, num_layers=2, attention_head_dim=8, num_attention_heads=2, joint_attention_dim=48,
        caption_projection_dim=16, pooled_projection_dim=12 + 20, out_channels=16, pos_embed_max_size=12,
        dual_attention_layers=(0,), qk_norm="rms_norm",
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(8, 16, 16), down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1, latent_channels=16, norm_num_groups=8, sample_size=64, scaling_factor=1.5305, shift_factor=0.0609,
        use_quant_conv=False, use_post_quant_conv=False, force_upcast=True,
    )  # fmt: skip
    t5 = T5EncoderModel(
        T5Config(
            vocab_size=60, d_model=48, d_kv=8, d_ff=64, num_layers=2, num_heads=4, feed_forward_proj="gated-gelu", tie_word_embeddings=False
        )
    )
    folder = tmp_path_factory.mktemp("models") / "dit"
    pipeline = StableDiffusion3Pipeline(
        transformer=transformer, vae=vae, scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        text_encoder=_projected(77, 16, 2, 12, legacy_end=True), text_encoder_2=_projected(77, 24, 3, 20, legacy_end=False),
        text_encoder_3=t5,
        tokenizer=_tokenizer(folder / "tokenizer", 77), tokenizer_2=_tokenizer(folder / "tokenizer_2", 77), tokenizer_3=_t5_tokenizer(),
    )  # fmt: skip
    return _exported(_save_parts(folder, pipeline, {"tokenizer": 77, "tokenizer_2": 77}), cache)

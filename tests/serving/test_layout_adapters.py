"""LoRAs of Stable Diffusion XL and 3: every part that one may change, and kohya's original names, against diffusers and peft."""

import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from serving.adapters.lora import FILE
from serving.adapters.original import original_names
from serving.engine import Job, LocalEngine
from serving.noise import initial_noise
from serving.registry import Registry
from serving.settings import EngineSettings
from serving.variant import Variant

RANK = 2


@pytest.fixture(scope="module")
def engine(cache: Path, tmp_path_factory: pytest.TempPathFactory):
    engine = LocalEngine(Registry(str(tmp_path_factory.mktemp("registry"))), cache=cache, settings=EngineSettings(threads=1))
    yield engine
    engine.close()


def _trained(part, targets: list[str], deviation: float) -> dict:
    """Random weights of a LoRA of peft on `targets`, as peft writes them; the part is left as it was."""
    import torch
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    part.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=targets), "default")
    with torch.no_grad():
        for name, parameter in part.named_parameters():
            if "lora_" in name:
                parameter.normal_(0, deviation)
    weights = {name: tensor.clone() for name, tensor in get_peft_model_state_dict(part, adapter_name="default").items()}
    part.delete_adapters("default") if hasattr(part, "delete_adapters") else part.delete_adapter("default")
    return weights


def _pipeline(kind: str, folder: Path):
    import diffusers
    import torch

    torch.manual_seed(7)
    pipeline = getattr(diffusers, kind).from_pretrained(folder, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _draw(pipeline, channels: int, seed: int, **said) -> np.ndarray:
    import torch

    latents = torch.from_numpy(initial_noise(seed, (1, channels, 8, 8)))
    image = pipeline("a red cat", num_inference_steps=3, guidance_scale=4.0, latents=latents, output_type="np", **said).images[0]
    return (image * 255).round().astype(int)


def _served(engine: LocalEngine, model: Path, scheduler: str, adapter: Path, seed: int) -> dict[str, list[np.ndarray]]:
    """Pictures without and with the adapter, drawn in one batch, by backend."""
    pictures = {}
    for backend in ("onnx", "torch"):
        common = {"model": str(model), "backend": backend, "scheduler": scheduler, "steps": 3, "guidance": 4.0}
        variants = [Variant(**common), Variant(**common, adapter=str(adapter))]
        for variant in variants:
            engine.load(variant)
        futures = engine.submit_all([Job(variant=variant, prompt="a red cat", seed=seed) for variant in variants])
        pictures[backend] = [future.result(60).rgb.astype(int) for future in futures]
    return pictures


def test_an_adapter_of_sdxl_changes_the_unet_and_both_text_encoders(engine: LocalEngine, sdxl: Path, tmp_path: Path) -> None:
    pipeline = _pipeline("StableDiffusionXLPipeline", sdxl)
    plain = _draw(pipeline, 4, 3)
    attention = ["q_proj", "k_proj", "v_proj", "out_proj"]
    flat = {layer: name.replace(".", "_") for name, layer in _original(pipeline.unet).items()}
    pipeline.save_lora_weights(
        tmp_path,
        unet_lora_layers=_trained(pipeline.unet, ["to_q", "to_v", "to_out.0", "proj_in", "conv1", "conv_shortcut"], 0.1),
        text_encoder_lora_layers=_trained(pipeline.text_encoder, attention, 0.3),
        text_encoder_2_lora_layers=_trained(pipeline.text_encoder_2, attention, 0.3),
    )
    # kohya's file of the same: flat names, the UNet's as the original code has them
    kohya: dict[str, np.ndarray] = {}
    for name, array in load_file(tmp_path / FILE).items():
        part, _, rest = name.partition(".")
        module, _, kind = rest.rpartition(".lora")
        prefix = {"unet": "lora_unet_", "text_encoder": "lora_te1_", "text_encoder_2": "lora_te2_"}[part]
        stem = prefix + (flat[module] if part == "unet" else module.replace(".", "_"))
        kohya[f"{stem}.lora_{'down' if kind in ('_A.weight', '_linear_layer.down.weight', '.down.weight') else 'up'}.weight"] = array
        kohya[f"{stem}.alpha"] = np.array(float(RANK), np.float32)
    (tmp_path / "kohya").mkdir()
    save_file(kohya, tmp_path / "kohya/style.safetensors")
    pipeline.load_lora_weights(tmp_path)
    expected = _draw(pipeline, 4, 3)
    for adapter in (tmp_path, tmp_path / "kohya"):
        for backend, (without, adapted) in _served(engine, sdxl, "euler", adapter, 3).items():
            assert np.abs(without - plain).max() <= 1, backend
            assert np.abs(adapted - expected).max() <= 1 < 20 < np.abs(adapted - without).max(), (backend, adapter)


def _original(unet) -> dict[str, str]:
    return original_names(name.removesuffix(".weight") for name, _ in unet.named_parameters() if name.endswith(".weight"))


def test_original_names_are_those_that_diffusers_reads(sdxl: Path) -> None:
    import torch
    from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel

    unet = UNet2DConditionModel.from_pretrained(sdxl / "unet")
    kohya, layers = {}, set()
    for original, layer in _original(unet).items():
        if "norm" in layer:
            continue
        layers.add(layer)
        for kind in ("down", "up"):
            kohya[f"lora_unet_{original.replace('.', '_')}.lora_{kind}.weight"] = torch.zeros(1, 1)
    found, _ = StableDiffusionXLPipeline.lora_state_dict(kohya, unet_config=unet.config)
    # it names attention after the processor, as before peft
    modules = {re.sub(r"\.processor\.to_(\w+)_lora\.", r".to_\1.lora.", name).rpartition(".lora")[0] for name in found}
    read = {re.sub(r"to_out$", "to_out.0", name.removeprefix("unet.")) for name in modules}
    matrices = {name.removesuffix(".weight") for name, p in unet.named_parameters() if p.ndim > 1 and name.endswith(".weight")}
    assert read == layers == matrices


def test_an_adapter_of_a_transformer(engine: LocalEngine, dit: Path, tmp_path: Path) -> None:
    pipeline = _pipeline("StableDiffusion3Pipeline", dit)
    plain = _draw(pipeline, 16, 3)
    targets = ["to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_v_proj", "ff.net.0.proj", "proj_out"]
    pipeline.save_lora_weights(tmp_path, transformer_lora_layers=_trained(pipeline.transformer, targets, 0.2))
    pipeline.load_lora_weights(tmp_path)
    expected = _draw(pipeline, 16, 3)
    for backend, (without, adapted) in _served(engine, dit, "flow-euler", tmp_path, 3).items():
        assert np.abs(without - plain).max() <= 1, backend
        assert np.abs(adapted - expected).max() <= 1 < 20 < np.abs(adapted - without).max(), backend

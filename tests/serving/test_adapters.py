"""LoRA merging against peft, and the names that other tools write."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from serving.adapters.lora import FILE, read_adapter
from serving.adapters.merge import merge
from serving.errors import ModelError
from serving.weights import read_part


@pytest.fixture(scope="module")
def trained(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory):
    """peft's adapter on attention and convolutions, alpha 3 at rank 2, saved by diffusers; and peft's own fused weights."""
    import torch
    from diffusers import StableDiffusionPipeline, UNet2DConditionModel
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    torch.manual_seed(4)
    unet = UNet2DConditionModel.from_pretrained(tiny_model / "unet", torch_dtype=torch.float32)
    unet.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_k", "to_v", "to_out.0", "conv1", "conv2"]))
    with torch.no_grad():
        for name, parameter in unet.named_parameters():
            if "lora_" in name:
                parameter.normal_(0, 0.1)
    folder = tmp_path_factory.mktemp("adapter")
    StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=get_peft_model_state_dict(unet))
    unet.fuse_lora()
    unet.unload_lora()
    return folder, {name: p.detach().numpy() for name, p in unet.state_dict().items()}


def test_merged_weights_are_those_of_peft(trained, tiny_model: Path) -> None:
    folder, fused = trained
    base = read_part(tiny_model / "unet")
    merged = merge(base, read_adapter(folder), "unet", 1.0)
    assert merged.keys() == fused.keys()
    assert max(np.abs(merged[name] - fused[name]).max() for name in fused) < 1e-6
    changed = {name for name in base if merged[name] is not base[name]}
    assert any(base[name].ndim == 4 for name in changed) and any(base[name].ndim == 2 for name in changed)
    assert all(np.abs(merged[name] - base[name]).max() > 1e-3 for name in changed)


def test_scale_is_linear_and_zero_is_the_base(trained, tiny_model: Path) -> None:
    base, adapter = read_part(tiny_model / "unet"), read_adapter(trained[0])
    nothing, half, whole = (merge(base, adapter, "unet", scale) for scale in (0.0, 0.5, 1.0))
    for name in base:
        assert (nothing[name] == base[name]).all()
        assert np.allclose(half[name] - base[name], (whole[name] - base[name]) / 2, atol=1e-6)


def test_kohya_names_and_alpha(trained, tiny_model: Path, tmp_path: Path) -> None:
    """kohya: dots as underscores, lora_down and lora_up, alpha apart; alpha 4 at rank 2 doubles the change."""
    kohya = {}
    for name, array in load_file(trained[0] / FILE).items():
        module, kind = name.removeprefix("unet.").split(".lora_")
        flat = "lora_unet_" + module.replace(".", "_")
        kohya[f"{flat}.lora_{'down' if kind[0] == 'A' else 'up'}.weight"] = array
        kohya[f"{flat}.alpha"] = np.array(4.0, np.float32)
    save_file(kohya, tmp_path / "style.safetensors")
    base = read_part(tiny_model / "unet")
    single, double = (merge(base, read_adapter(folder), "unet", 1.0) for folder in (trained[0], tmp_path))
    assert all(np.allclose(double[name] - base[name], 2 * (single[name] - base[name]), atol=1e-6) for name in base)


def test_a_foreign_or_damaged_adapter_is_refused(trained, tiny_model: Path, tmp_path: Path) -> None:
    base, weights = read_part(tiny_model / "unet"), load_file(trained[0] / FILE)
    name = next(n for n in weights if n.endswith("to_q.lora_A.weight"))

    def refused(change: dict, match: str) -> None:
        save_file({k: v for k, v in (weights | change).items() if v is not None}, tmp_path / FILE)
        with pytest.raises(ModelError, match=match):
            merge(base, read_adapter(tmp_path), "unet", 1.0)

    refused({name: np.zeros((2, 7), np.float32)}, "made for another model")
    refused({name: None}, "only one of its two LoRA matrices")
    refused({"unet.nowhere.lora_A.weight": np.zeros((2, 2), np.float32)}, "no module nowhere")
    refused({"vae.x.lora_A.weight": np.zeros((2, 2), np.float32)}, "is not a LoRA weight")
    (tmp_path / FILE).write_bytes((tmp_path / FILE).read_bytes()[:200])
    with pytest.raises(ModelError, match="is not a safetensors file"):
        read_adapter(tmp_path)
    (tmp_path / FILE).unlink()
    with pytest.raises(ModelError, match=r"has 0 \.safetensors files"):
        read_adapter(tmp_path)

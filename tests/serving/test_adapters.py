"""LoRA merging against peft, and the names that other tools write."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from serving.adapters.lora import FILE, read_adapter
from serving.adapters.merge import merge
from serving.adapters.targets import check_parts
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


def test_a_loha_is_the_lora_that_it_equals(tiny_model: Path, tmp_path: Path) -> None:
    """peft's own change of the weights, alpha 3 at rank 2, linear layers and convolutions."""
    import torch
    from diffusers import UNet2DConditionModel
    from peft import LoHaConfig, PeftModel

    torch.manual_seed(8)
    unet = UNet2DConditionModel.from_pretrained(tiny_model / "unet", torch_dtype=torch.float32)
    model = PeftModel(unet, LoHaConfig(r=2, alpha=3, target_modules=["to_q", "conv1"]))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "hada_" in name:
                parameter.normal_(0, 0.5)
    model.save_pretrained(tmp_path)
    fused = {name: tensor.numpy() for name, tensor in model.merge_and_unload().state_dict().items()}
    base = read_part(tiny_model / "unet")
    merged = merge(base, read_adapter(tmp_path), "unet", 1.0)
    assert max(np.abs(merged[name] - fused[name]).max() for name in fused) < 1e-5
    changed = [name for name in base if np.abs(merged[name] - base[name]).max() > 1e-2]
    assert {base[name].ndim for name in changed} == {2, 4}
    weights = load_file(tmp_path / "adapter_model.safetensors")
    save_file({name: array for name, array in weights.items() if not name.endswith("hada_w2_a")}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(ModelError, match="has no hada_w2_a"):
        read_adapter(tmp_path)


@pytest.mark.parametrize("rslora", [False, True])
def test_alpha_beside_the_matrices_counts(rslora: bool, tiny_model: Path, tmp_path: Path) -> None:
    """peft keeps it in adapter_config.json, diffusers in the file's header: the same weights as peft's in both."""
    import torch
    from diffusers import StableDiffusionPipeline, UNet2DConditionModel
    from peft import LoraConfig, PeftModel
    from peft.utils import get_peft_model_state_dict

    torch.manual_seed(9)
    unet = UNet2DConditionModel.from_pretrained(tiny_model / "unet", torch_dtype=torch.float32)
    model = PeftModel(unet, config := LoraConfig(r=4, lora_alpha=10, use_rslora=rslora, target_modules=["to_q"], init_lora_weights=False))
    model.save_pretrained(tmp_path / "peft")
    state = {name.removeprefix("base_model.model."): tensor for name, tensor in get_peft_model_state_dict(model).items()}
    told = {"r": 4, "lora_alpha": config.lora_alpha, "use_rslora": rslora}
    StableDiffusionPipeline.save_lora_weights(tmp_path / "diffusers", unet_lora_layers=state, unet_lora_adapter_metadata=told)
    fused = {name: tensor.numpy() for name, tensor in model.merge_and_unload().state_dict().items()}
    base = read_part(tiny_model / "unet")
    adapters = [read_adapter(tmp_path / "peft"), read_adapter(tmp_path / "diffusers")]
    for adapter in adapters:
        merged = merge(base, adapter, "unet", 1.0)
        assert max(np.abs(merged[name] - fused[name]).max() for name in fused) < 1e-5
    path = tmp_path / "peft/adapter_config.json"
    path.write_text(path.read_text().replace('"lora_alpha": 10', '"lora_alpha": 11'))
    assert read_adapter(tmp_path / "peft").digest != adapters[0].digest
    path.write_text(path.read_text().replace('"alpha_pattern": {}', '"alpha_pattern": {"to_q": 3}'))
    with pytest.raises(ModelError, match="alpha_pattern"):
        read_adapter(tmp_path / "peft")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("lora_unet_mid_block_resnets_0_conv1.lora_mid.weight", "Tucker"),
        ("unet.mid_block.resnets.0.conv1.hada_t1", "Tucker"),
        ("lora_unet_mid_block_attentions_0_proj_in.lokr_w1", "LoKr"),
        ("lora_unet_conv_in.diff", "whole weight's difference"),
        ("lora_unet_conv_in.diff_b", "bias's difference"),
        ("lora_unet_mid_block_resnets_0_norm1.w_norm", "normalisation"),
        ("text_encoder.embeddings.token_embedding.lora_embedding_A", "embedding"),
        ("base_model.model.conv_in.lora_B.bias", "bias beside a LoRA"),
        ("base_model.model.conv_in.modules_to_save.weight", "whole layer"),
    ],
)
def test_what_is_no_sum_of_small_matrices_is_refused_with_the_reason(name: str, reason: str, tmp_path: Path) -> None:
    save_file({name: np.zeros((2, 2), np.float32)}, tmp_path / FILE)
    with pytest.raises(ModelError, match=f"{reason}.*merge it into a copy of the model"):
        read_adapter(tmp_path)


def test_parts_that_a_model_lacks_and_numbers_that_are_none_are_refused(trained, tiny_model: Path, tmp_path: Path) -> None:
    weights = load_file(trained[0] / FILE)
    name = next(n for n in weights if n.endswith("to_q.lora_A.weight"))
    save_file(weights | {name: np.full_like(weights[name], np.nan)}, tmp_path / FILE)
    with pytest.raises(ModelError, match="not finite"):
        merge(read_part(tiny_model / "unet"), read_adapter(tmp_path), "unet", 1.0)
    save_file(weights | {"text_encoder_2.x.lora_A.weight": weights[name]}, tmp_path / FILE)
    with pytest.raises(ModelError, match="changes the text_encoder_2, which the model does not have"):
        check_parts(read_adapter(tmp_path), ["unet", "text_encoder", "vae"])
    check_parts(read_adapter(trained[0]), ["transformer", "vae"])  # kohya calls a transformer the UNet too

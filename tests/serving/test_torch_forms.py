"""Three forms of a mixed LoRA batch against peft's own layers, per network call."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from serving.adapters.lora import Adapter, Lora
from serving.backends.torch.forms import Concatenated, Form, Shape, check_form, form_named
from serving.backends.torch.network import AdaptedNetwork
from serving.backends.torch.parts import Part
from serving.backends.torch.rows import BUCKETS, arrange, bucket
from serving.errors import ModelError

RANKS = (2, 3, 8)
LAYERS = {"0": ["to_q", "to_out.0", "conv1"], "1": ["to_v", "time_emb_proj", "proj_in", "conv_shortcut"], "2": ["conv2", "conv", "proj"]}


class Bare(torch.nn.Module):
    """A diffusers UNet that takes its inputs in order."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        return self.model(sample, timestep, text, return_dict=False)[0]


@pytest.fixture(scope="module")
def mixed(tiny_model: Path):
    """peft's mixed batch: adapters "0", "1" and "2" (rank, alpha and layers differ), rows by `adapter_names`; and the adapters."""
    from diffusers import UNet2DConditionModel
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(6)
    unet = UNet2DConditionModel.from_pretrained(tiny_model / "unet", torch_dtype=torch.float32)
    configs = {
        name: LoraConfig(r=rank, lora_alpha=rank / 2, target_modules=LAYERS[name], rank_pattern={"mid_block.*": rank + 1})
        for name, rank in zip(LAYERS, RANKS, strict=True)
    }
    peft = get_peft_model(unet, configs["0"], adapter_name="0")
    for name in ("1", "2"):
        peft.add_adapter(name, configs[name])
    modules: dict[str, dict[str, Lora]] = {name: {} for name in LAYERS}
    for name, module in peft.named_modules():
        for adapter in getattr(module, "lora_A", {}):
            down, up = module.lora_A[adapter].weight, module.lora_B[adapter].weight
            torch.nn.init.normal_(down, 0, 0.2)
            torch.nn.init.normal_(up, 0, 0.2)
            lora = Lora(down.detach().numpy(), up.detach().numpy(), module.scaling[adapter] * len(down))
            modules[adapter][name.removeprefix("base_model.model.")] = lora
    adapters = [Adapter(Path(name), name, {"unet": loras}) for name, loras in modules.items()]
    inputs = torch.randn(5, 4, 8, 8), torch.tensor([900.0, 20.0, 500.0, 500.0, 1.0]), torch.randn(5, 7, 32)
    names = ["2", "__base__", "0", "1", "0"]
    with torch.no_grad():
        expected = peft.eval()(*inputs, adapter_names=names, return_dict=False)[0]
    base = UNet2DConditionModel.from_pretrained(tiny_model / "unet", torch_dtype=torch.float32)
    return Bare(base.eval().requires_grad_(False)), adapters, inputs, torch.tensor([3, 0, 1, 2, 1]), expected


@pytest.mark.parametrize("last", [False, True], ids=["channels first", "channels last"])
@pytest.mark.parametrize("form", ["gathered", "concatenated"])
def test_rows_of_other_adapters_are_those_of_peft(mixed, form, last: bool) -> None:
    unet, adapters, (sample, timestep, text), entries, expected = mixed
    if last:
        sample, unet = sample.to(memory_format=torch.channels_last), unet.to(memory_format=torch.channels_last)
    base = Part(unet, ("sample", "timestep", "encoder_hidden_states"), ("out_sample",))
    network = AdaptedNetwork(base, "unet", 4, form)
    for adapter in adapters:
        wider = network.widened(adapter)
        wider.take_over(network)
        network = wider
        network.bank[1 + adapters.index(adapter)] = network.line(adapter, 1.0)
    network.adapted = True
    with torch.no_grad():
        found = network(sample, timestep, {"encoder_hidden_states": text}, entries)
        plain = unet(sample, timestep, text)
    assert (found - expected).norm() < 1e-5 * expected.norm()
    assert (found[1] - plain[1]).abs().max() < 1e-5 * plain[1].abs().max()
    for row in (0, 2, 3, 4):
        assert (found[row] - plain[row]).norm() > 0.05 * plain[row].norm()


sides = st.integers(1, 3)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_forms_agree_on_any_convolution(data: st.DataObject) -> None:
    """Against one plain convolution per row with the merged weight."""
    kernel, stride, padding, dilation = (data.draw(st.tuples(sides, sides)) for _ in range(4))
    rank, inputs, outputs = data.draw(st.sampled_from([1, 4])), data.draw(st.integers(1, 5)), data.draw(st.integers(1, 5))
    shape = Shape(inputs, outputs, rank, kernel, stride, padding, dilation)
    torch.manual_seed(data.draw(st.integers(0, 99)))
    weight, x = torch.randn(outputs, inputs, *kernel), torch.randn(3, inputs, 8, 7)
    entries, at = torch.tensor([2, 0, 1]), 3
    down, up = torch.randn(3, rank, inputs, *kernel), torch.randn(3, outputs, rank)
    down[0] = up[0] = 0
    laid = down.flatten(3).flip(3).transpose(2, 3).flatten(1)
    bank = torch.cat([torch.full((3, at), torch.nan), laid, up.flatten(1), torch.full((3, 2), torch.nan)], 1)
    y = functional.conv2d(x, weight, None, stride, padding, dilation)
    merged = weight + torch.einsum("eor,erixy->eoixy", up, down)
    expected = torch.cat([functional.conv2d(x[i : i + 1], merged[e], None, stride, padding, dilation) for i, e in enumerate(entries)])
    last = torch.channels_last if data.draw(st.booleans()) else torch.contiguous_format
    for name in ("gathered", "concatenated"):
        form: Form = form_named(name)
        form.choose(bank, entries)
        found = form.pictures(y.clone(memory_format=last), x.to(memory_format=last), shape, at)
        assert torch.allclose(found, expected, atol=1e-3, rtol=1e-4)


def test_a_form_that_is_wrong_on_a_device_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `grouped` must pass on a GPU before it is used, here with the other two, one of them spoilt."""
    cpu = torch.device("cpu")
    for name in ("gathered", "concatenated"):
        for dtype in (torch.float32, torch.bfloat16):
            check_form(name, cpu, dtype)
    with pytest.raises(ModelError, match="needs a CUDA device"):
        check_form("grouped", cpu, torch.float32)
    monkeypatch.setattr(Concatenated, "tokens", lambda self, y, x, shape, at: y)
    with pytest.raises(ModelError, match='set lora = "gathered", and report this'):
        check_form("concatenated", cpu, torch.float32)


@given(st.lists(st.booleans(), min_size=1, max_size=12), st.integers(0, 5), st.randoms())
def test_rows_of_a_call(guided: list[bool], padding: int, random) -> None:
    """Every image has its conditioned row, a guided one its own second row with the negative text; the rest is padding."""
    places = random.sample(range(20), len(guided))
    rows = len(guided) + sum(guided) + padding
    image, first, second, place, text = arrange(places, guided, 20, rows)
    assert list(image) == places + [20] * (rows - len(places))
    used = set()
    for i, (mine, two) in enumerate(zip(places, guided, strict=True)):
        assert place[first[i]] == mine == text[first[i]]
        assert (second[i] != first[i]) == two
        assert not two or (place[second[i]], text[second[i]]) == (mine, mine + 21)
        used |= {first[i], second[i]}
    assert len(used) == rows - padding
    assert all(place[row] == text[row] == 20 for row in set(range(rows)) - used)


def test_buckets_hold_what_they_are_asked_for() -> None:
    assert all(bucket(rows) >= rows and (rows > 256 or bucket(rows) in BUCKETS) for rows in range(1, 300))
    assert all(bucket(size) == size for size in BUCKETS)
    assert all(bucket(rows) <= 1.5 * rows for rows in range(5, 257))

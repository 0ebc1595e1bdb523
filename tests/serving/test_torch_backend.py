"""The torch backend draws what diffusers draws, each row with its own adapter, steps and guidance."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from serving.adapters.lora import FILE, Adapter, read_adapter
from serving.backends.port import Seat
from serving.backends.torch.backend import TorchBackend, open_torch
from serving.errors import ModelError
from serving.model import Model, open_model
from serving.noise import initial_noise
from serving.samplers import table
from serving.settings import EngineSettings

ATTENTION, CONVOLUTIONS = ["to_q", "to_k", "to_v", "to_out.0"], ["conv1", "conv2", "proj_in", "conv_shortcut", "conv"]
SCHEDULERS = {"ddim": "DDIMScheduler", "euler": "EulerDiscreteScheduler", "dpm++": "DPMSolverMultistepScheduler"}


def opened(model: Model, **settings) -> TorchBackend:
    backend = open_torch(model, EngineSettings(threads=1, adapters=3, **settings), Path("unused"), 8)
    assert isinstance(backend, TorchBackend)
    return backend


@pytest.fixture(scope="module")
def model(tiny_model: Path, cache: Path) -> Model:
    return open_model(str(tiny_model), cache)


@pytest.fixture(scope="module")
def backend(model: Model) -> TorchBackend:
    return opened(model)


@pytest.fixture(scope="module")
def adapters(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Adapter]:
    """Three of peft's, of ranks 2, 3 and 8, on other layers each, saved by diffusers; ours say an alpha of twice the rank besides."""
    from diffusers import StableDiffusionPipeline, UNet2DConditionModel
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    torch.manual_seed(5)
    made = []
    for rank, targets in ((2, ATTENTION + CONVOLUTIONS), (3, ["to_q", "to_v", "time_emb_proj", "proj"]), (8, CONVOLUTIONS)):
        unet = UNet2DConditionModel.from_pretrained(tiny_model / "unet", torch_dtype=torch.float32)
        unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=targets))
        for name, parameter in unet.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(parameter, 0, 0.05)
        folder = tmp_path_factory.mktemp("adapter")
        StableDiffusionPipeline.save_lora_weights(folder / "plain", unet_lora_layers=get_peft_model_state_dict(unet))
        arrays = load_file(folder / "plain" / FILE)
        alphas = {name.replace(".lora_A.weight", ".alpha"): np.float32([2 * rank]) for name in arrays if ".lora_A." in name}
        save_file(arrays | alphas, folder / FILE)
        made.append(read_adapter(folder))
    return made


def drawn(backend: TorchBackend, seats: Sequence[Seat], *, together: bool = True) -> list[np.ndarray]:
    """uint8 [h, w, 3] of each seat; the second joins a step after the first, and so on."""
    if not together:
        return [drawn(backend, [seat])[0] for seat in seats]
    left = {seat.place: seat.table.steps for seat in seats}
    for later in range(len(seats) + max(left.values())):
        if later < len(seats):
            backend.begin([seats[later]])
        if active := [seat.place for seat in seats[: later + 1] if left[seat.place]]:
            backend.advance(active)
            for place in active:
                left[place] -= 1
    return list(backend.decode([seat.place for seat in seats]))


def seat(model: Model, place: int, steps: int = 4, guidance: float = 2.0, entry: int = 0, scheduler="ddim", prompt="a red cat") -> Seat:
    columns = table(model.scheduler, scheduler, steps)
    return Seat(place=place, prompt=prompt, negative_prompt="dog", seed=place, table=columns, guidance=guidance, entry=entry)


@lru_cache
def pipeline_of(folder: Path, variant: str | None):
    import diffusers

    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(folder, variant=variant, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def pipeline_picture(model: Model, one: Seat, scheduler: str, adapter: Adapter | None = None, variant: str | None = None) -> np.ndarray:
    import diffusers

    pipeline = pipeline_of(model.folder, variant)
    pipeline.scheduler = getattr(diffusers, SCHEDULERS[scheduler]).from_config(pipeline.scheduler.config)
    if adapter is not None:
        plain = adapter.path.parent / "plain"  # the same without alphas, which diffusers takes in files of kohya's only
        pipeline.load_lora_weights(str(plain if plain.exists() else plain.parent), weight_name=FILE, adapter_name="it")
        if plain.exists():
            pipeline.set_adapters("it", 2.0)
    latents = torch.from_numpy(initial_noise(one.seed, (1, 4, model.latent_height, model.latent_width)))
    image = pipeline(
        one.prompt, negative_prompt=one.negative_prompt, num_inference_steps=one.table.steps, guidance_scale=one.guidance,
        latents=latents, output_type="np",
    ).images[0]  # fmt: skip
    if adapter is not None:
        pipeline.unload_lora_weights()
    return (image * 255).round().astype(np.uint8)


def apart(a: np.ndarray, b: np.ndarray) -> int:
    return int(np.abs(a.astype(int) - b).max())


def test_a_mixed_batch_is_what_diffusers_draws_one_by_one(stable_diffusion: Path, cache: Path) -> None:
    """Three samplers, other steps, with and without guidance, in the same calls."""
    model = open_model(str(stable_diffusion), cache)
    told = [("ddim", 2, 7.5), ("euler", 5, 1.0), ("dpm++", 4, 3.0)]
    seats = [seat(model, i, steps, guidance, scheduler=name) for i, (name, steps, guidance) in enumerate(told)]
    for one, (scheduler, _, _), rgb in zip(seats, told, drawn(opened(model), seats), strict=True):
        expected = pipeline_picture(model, one, scheduler, variant="fp16")
        assert expected.std() > 5
        assert apart(rgb, expected) <= 1


def test_each_row_has_its_own_adapter(model: Model, backend: TorchBackend, adapters: list[Adapter]) -> None:
    """peft's layers, loaded by diffusers, are the oracle; the adapters differ in rank, alpha and layers."""
    for adapter in adapters:
        backend.admit(adapter, 1.0)
    for entry, adapter in enumerate(adapters, 1):
        backend.attach(entry, adapter, 1.0)
    # steps that divide 1000: with others diffusers' DDIM means another timestep than the next of its list
    seats = [seat(model, i, steps, guidance=1.0 + i % 2, entry=i) for i, steps in enumerate((2, 4, 5, 8))]
    pictures = drawn(backend, seats)
    for one, rgb in zip(seats, pictures, strict=True):
        adapter = adapters[one.entry - 1] if one.entry else None
        assert apart(rgb, pipeline_picture(model, one, "ddim", adapter)) <= 1
        if adapter:
            assert apart(rgb, pipeline_picture(model, one, "ddim")) > 4, "the adapter changes nothing, so this proves nothing"


def test_company_changes_no_more_than_a_level(model: Model, backend: TorchBackend) -> None:
    seats = [seat(model, i, steps=2 + i, guidance=1.0 + i % 2) for i in range(5)]
    for together, alone in zip(drawn(backend, seats), drawn(backend, seats, together=False), strict=True):
        assert apart(together, alone) <= 1


def test_strict_is_the_same_to_the_bit_in_any_company(model: Model, adapters: list[Adapter]) -> None:
    backend = opened(model, mode="strict")
    backend.admit(adapters[0], 1.0)
    backend.attach(1, adapters[0], 1.0)
    seats = [seat(model, i, steps=2 + i, guidance=1.0 + i % 2, entry=i % 2) for i in range(5)]
    together = drawn(backend, seats)
    latents = backend._places.x.clone()
    alone = drawn(backend, seats, together=False)
    assert all((a == b).all() for a, b in zip(together, alone, strict=True))
    assert (backend._places.x == latents).all() and latents[:5].std() > 0.1


def test_a_dora_is_a_network_of_its_own(model: Model, tiny_model: Path, adapters: list[Adapter], tmp_path: Path) -> None:
    from diffusers import StableDiffusionPipeline, UNet2DConditionModel
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    unet = UNet2DConditionModel.from_pretrained(tiny_model / "unet", torch_dtype=torch.float32)
    unet.add_adapter(LoraConfig(r=4, lora_alpha=4, target_modules=ATTENTION, use_dora=True))
    for name, parameter in unet.named_parameters():
        if "lora_" in name:
            parameter.data += 0.2 * torch.randn_like(parameter)
    StableDiffusionPipeline.save_lora_weights(tmp_path, unet_lora_layers=get_peft_model_state_dict(unet))
    dora = read_adapter(tmp_path)
    for mode in ("fast", "strict"):
        backend = opened(model, mode=mode)
        for entry, adapter in enumerate((adapters[0], dora), 1):
            backend.admit(adapter, 1.0)
            backend.attach(entry, adapter, 1.0)
        seats = [seat(model, i, steps, entry=i) for i, steps in enumerate((4, 5, 2))]
        pictures, alone = drawn(backend, seats), drawn(backend, seats, together=False)
        assert max(apart(a, b) for a, b in zip(pictures, alone, strict=True)) <= (mode == "fast")
    expected = [pipeline_picture(model, one, "ddim", adapter) for one, adapter in zip(seats, (None, adapters[0], dora), strict=True)]
    assert max(apart(a, b) for a, b in zip(pictures, expected, strict=True)) <= 1
    assert apart(pictures[2], pipeline_picture(model, seats[2], "ddim")) > 4
    # the entry goes to a LoRA again
    backend.attach(2, adapters[0], 1.0)
    assert apart(drawn(backend, [seat(model, 1, 5, entry=2)])[0], pictures[1]) <= 1


def test_a_wider_adapter_is_admitted_while_others_are_drawn(model: Model, adapters: list[Adapter]) -> None:
    """The bank is laid out anew between two steps: images under way keep their adapter."""
    backend = opened(model)
    narrow, wide = adapters[1], adapters[0]
    backend.admit(narrow, 1.0)
    backend.attach(2, narrow, 1.0)
    one = seat(model, 0, steps=4, entry=2)
    (expected,) = drawn(backend, [one])
    bytes_before = backend.entry_bytes
    backend.begin([one])
    backend.advance([0])
    backend.admit(wide, 0.5)
    backend.advance([0])
    backend.attach(1, wide, 0.5)
    backend.advance([0])
    backend.advance([0])
    assert apart(backend.decode([0])[0], expected) <= 1
    assert backend.entry_bytes > bytes_before > 0


def test_another_adapter_takes_an_entry(model: Model, backend: TorchBackend, adapters: list[Adapter]) -> None:
    """An entry holds what was attached last, nothing of what was there; scale 0 is the base."""
    for adapter, scale in ((adapters[2], 0.0), (adapters[0], 1.0), (adapters[1], 1.0)):
        backend.admit(adapter, scale)
    backend.attach(1, adapters[0], 1.0)
    (first,) = drawn(backend, [seat(model, 0, entry=1)])
    backend.attach(1, adapters[1], 1.0)
    (second,) = drawn(backend, [seat(model, 0, entry=1)])
    backend.attach(2, adapters[1], 1.0)
    backend.attach(1, adapters[2], 0.0)
    pictures = drawn(backend, [seat(model, 0, entry=2), seat(model, 1, entry=1), seat(model, 2)])
    assert apart(pictures[0], second) <= 1 < apart(first, second)
    (base,) = drawn(backend, [seat(model, 1)])
    assert apart(pictures[1], base) <= 1


def test_text_encoders_are_merged_with_their_adapter(model: Model, tiny_model: Path, tmp_path: Path) -> None:
    rng, lora = np.random.default_rng(0), {}
    weights = load_file(tiny_model / "text_encoder/model.safetensors")
    for name in weights:
        if name.endswith("q_proj.weight"):
            module = "text_encoder." + ("" if name.startswith("text_model.") else "text_model.") + name.removesuffix(".weight")
            lora[f"{module}.lora_A.weight"] = rng.normal(0, 0.5, (2, 32)).astype(np.float32)
            lora[f"{module}.lora_B.weight"] = rng.normal(0, 0.5, (32, 2)).astype(np.float32)
    save_file(lora, tmp_path / FILE)
    adapter = read_adapter(tmp_path)
    backend = opened(model)
    backend.admit(adapter, 1.0)
    backend.attach(1, adapter, 1.0)
    seats = [seat(model, 0, entry=1), seat(model, 1)]
    for one, rgb in zip(seats, drawn(backend, seats), strict=True):
        expected = pipeline_picture(model, one, "ddim", adapter if one.entry else None)
        assert apart(rgb, expected) <= 1
    assert apart(pipeline_picture(model, seats[0], "ddim"), pipeline_picture(model, seats[0], "ddim", adapter)) > 1


def test_an_adapter_for_another_model_is_refused_and_changes_nothing(
    model: Model, backend: TorchBackend, adapters: list[Adapter], tmp_path: Path
) -> None:
    arrays = load_file(adapters[0].path)
    name = next(n for n in arrays if n.endswith("to_q.lora_A.weight"))
    for bad in ({name: arrays[name][:, :-1]}, {name.replace("to_q", "to_x"): arrays[name]}):
        changed = {n: a for n, a in arrays.items() if n != name} | bad
        save_file({n: np.ascontiguousarray(a) for n, a in changed.items()}, tmp_path / FILE)
        before = drawn(backend, [seat(model, 0)])[0]
        with pytest.raises(ModelError, match=r"another model|damaged"):
            backend.admit(read_adapter(tmp_path), 1.0)
        assert (drawn(backend, [seat(model, 0)])[0] == before).all()


def test_previews_approach_the_picture(model: Model, backend: TorchBackend) -> None:
    one, distances, seen = seat(model, 0, steps=6), [], []
    backend.begin([one])
    for _ in range(6):
        backend.advance([0])
        seen.append(backend.preview([0])[0])
    final = backend.decode([0])[0]
    distances = [np.abs(rgb.astype(int) - final).mean() for rgb in seen]
    assert distances[-1] <= 0.01 < distances[0]


def test_half_precision_draws_nearly_the_same(model: Model, backend: TorchBackend) -> None:
    one = seat(model, 0)
    a, b = drawn(backend, [one])[0].astype(int), drawn(opened(model, dtype="bfloat16"), [one])[0]
    assert 0 < np.abs(a - b).mean() < 3


def test_a_device_that_is_not_there_is_refused(model: Model) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    with pytest.raises(ModelError, match='no CUDA device on this machine; set device = "cpu"'):
        opened(model, device="cuda")

"""Rows of different adapters in one ONNX call, against peft's mixed batch and merged weights."""

import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.adapters.lora import Adapter, read_adapter
from serving.adapters.merge import merge
from serving.backends.onnx.banks import Banks
from serving.backends.onnx.blocks import in_blocks, side_by_side
from serving.backends.onnx.graph import Cores, Graph
from serving.backends.onnx.network import Network
from serving.backends.onnx.surgery import ADAPTER, Site, add_branches
from serving.errors import ModelError
from serving.model import graphs_folder, open_model
from serving.weights import read_part

FINETUNES = ["to_q", "to_k", "to_v", "to_out.0", "conv1", "conv2"]
KINDS = {
    "all": (4, FINETUNES),
    "attention": (3, ["to_q", "to_out.0"]),
    # strided convolutions, 1 × 1 convolutions, linear layers on vectors and with a bias
    "rest": (8, ["downsamplers.0.conv", "proj_in", "conv_in", "conv_shortcut", "time_emb_proj", "ff.net.2"]),
}
ROWS = ["all", "attention", "__base__", "rest", "attention", "all", "all", "__base__"]


@pytest.fixture(scope="module")
def peft_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory):
    """peft's own model with three adapters of different ranks and targets, and the same three as files."""
    import torch
    from diffusers import UNet2DConditionModel
    from peft import LoraConfig, PeftModel
    from peft.utils import get_peft_model_state_dict
    from safetensors.torch import save_file

    torch.manual_seed(5)
    unet = UNet2DConditionModel.from_pretrained(tiny_model / "unet", torch_dtype=torch.float32)
    model = None
    for name, (rank, targets) in KINDS.items():
        config = LoraConfig(r=rank, lora_alpha=rank, target_modules=targets)
        if model is None:
            model = PeftModel(unet, config, adapter_name=name)
        else:
            model.add_adapter(name, config)
    assert model is not None
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(0, 0.2)
    adapters = {}
    for name in KINDS:
        folder = tmp_path_factory.mktemp(name)
        state = get_peft_model_state_dict(model, adapter_name=name)
        save_file({key: tensor.contiguous() for key, tensor in state.items()}, folder / "adapter_model.safetensors")
        adapters[name] = read_adapter(folder)
    return model.eval(), adapters


@pytest.fixture(scope="module")
def inputs() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(6)
    return {
        "sample": rng.normal(size=(8, 4, 8, 8)).astype(np.float32),
        "timestep": np.linspace(10, 900, 8).astype(np.float32),
        "encoder_hidden_states": rng.normal(size=(8, 20, 32)).astype(np.float32),
    }


@pytest.fixture(scope="module")
def mixed(peft_model, inputs) -> np.ndarray:
    """What peft says to `ROWS`."""
    import torch

    with torch.no_grad():
        told = {name: torch.from_numpy(array) for name, array in inputs.items()}
        return peft_model[0](**told, return_dict=False, adapter_names=ROWS)[0].numpy()


def opened(tiny_model: Path, cache: Path, cores: Cores, *, strict: bool = False) -> Network:
    graphs = graphs_folder(open_model(str(tiny_model), cache), cache)
    return Network(graphs / "unet.onnx", "unet", read_part(tiny_model / "unet"), cores, 8, strict=strict)


@pytest.fixture
def network(request: pytest.FixtureRequest, tiny_model: Path, cache: Path):
    cores = Cores(2, by_row=getattr(request, "param", True))
    yield opened(tiny_model, cache, cores)
    cores.close()


def entries_of(names: list[str]) -> list[int]:
    return [["__base__", *KINDS].index(name) for name in names]


def error(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference, by the expected numbers' deviation."""
    return float(np.abs(found - expected).max() / expected.std())


@pytest.mark.parametrize("network", [False, True], ids=["together", "by row"], indirect=True)
def test_adapters_of_any_targets_and_ranks_share_a_call_as_in_peft(network: Network, peft_model, inputs, mixed) -> None:
    plain = network([0] * 8, inputs)
    for entry, adapter in enumerate(peft_model[1].values(), 1):
        network.admit(adapter, 1.0)
        network.attach(entry, adapter, 1.0)
    assert error(network(entries_of(ROWS), inputs), mixed) < 1e-5
    assert error(network([0] * 8, inputs), plain) < 1e-5
    assert error(plain, mixed) > 0.05  # the adapters do something
    # each row's numbers are those of its adapter whatever the order and company
    order = [3, 0, 5, 1, 7]
    some = {name: array[order] for name, array in inputs.items()}
    assert error(network(entries_of([ROWS[i] for i in order]), some), mixed[order]) < 1e-5


def test_an_entry_is_used_again_and_scales_are_the_files_own(network: Network, peft_model, inputs, tiny_model: Path, cache: Path) -> None:
    adapters = peft_model[1]
    for adapter in (adapters["rest"], adapters["attention"]):
        network.admit(adapter, 1.0)
        network.attach(1, adapter, -0.5)
    graphs = graphs_folder(open_model(str(tiny_model), cache), cache)
    merged = Graph(graphs / "unet.onnx", merge(read_part(tiny_model / "unet"), adapters["attention"], "unet", -0.5), Cores(1, by_row=False))
    assert error(network([1] * 8, inputs), merged(**inputs)) < 1e-5


def test_a_wider_graph_is_made_while_the_one_before_serves(network: Network, peft_model, inputs, mixed) -> None:
    adapters = peft_model[1]
    network.admit(adapters["attention"], 1.0)
    network.attach(2, adapters["attention"], 1.0)
    rows = [i for i, name in enumerate(ROWS) if name in ("attention", "__base__")]
    some = {name: array[rows] for name, array in inputs.items()}
    wanted = entries_of([ROWS[i] for i in rows])
    before = network._graph
    loading = threading.Thread(target=lambda: [network.admit(adapters[name], 1.0) for name in ("rest", "all")])
    loading.start()
    calls = 0
    while loading.is_alive() or calls < 2:
        assert error(network(wanted, some), mixed[rows]) < 1e-5
        calls += 1
    loading.join()
    assert network._graph is not before
    for entry, name in ((3, "rest"), (1, "all")):
        network.attach(entry, adapters[name], 1.0)
    assert error(network(entries_of(ROWS), inputs), mixed) < 1e-5
    widest = network._graph
    for adapter in adapters.values():
        network.admit(adapter, 0.3)
    network([0] * 8, inputs)
    assert network._graph is widest  # a graph is made once


def test_strict_rows_are_the_same_to_the_bit_in_any_company(peft_model, inputs, tiny_model: Path, cache: Path) -> None:
    network = opened(tiny_model, cache, Cores(1, by_row=False), strict=True)
    for entry, adapter in enumerate(peft_model[1].values(), 1):
        network.admit(adapter, 1.0)
        network.attach(entry, adapter, 1.0)
    first = network(entries_of(ROWS), inputs)
    other = {name: np.concatenate([array[:1], array[:0:-1]]) for name, array in inputs.items()}
    again = network([1, *[2] * 7], other)
    assert (again[0] == first[0]).all() and not (again[1:] == first[:0:-1]).all()


def test_a_dora_has_a_network_of_its_own_beside_the_others(network: Network, peft_model, inputs, tiny_model: Path, tmp_path: Path) -> None:
    import torch
    from diffusers import UNet2DConditionModel
    from peft import LoraConfig, PeftModel

    torch.manual_seed(7)
    unet = UNet2DConditionModel.from_pretrained(tiny_model / "unet", torch_dtype=torch.float32)
    model = PeftModel(unet, LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "conv1"], use_dora=True))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_magnitude" in name:
                parameter.mul_(1.5)
            elif "lora_" in name:
                parameter.normal_(0, 0.2)
        told = {name: torch.from_numpy(array) for name, array in inputs.items()}
        expected = model.eval()(**told, return_dict=False)[0].numpy()
    model.save_pretrained(tmp_path)
    dora, lora = read_adapter(tmp_path), peft_model[1]["attention"]
    for entry, adapter in ((1, lora), (2, dora)):
        network.admit(adapter, 1.0)
        network.attach(entry, adapter, 1.0)
    together = network([2, 0, 2, 1, 2, 2, 1, 2], inputs)
    assert error(together[[0, 2, 4, 5, 7]], expected[[0, 2, 4, 5, 7]]) < 1e-5
    assert error(together[[3, 6]], network([1] * 8, inputs)[[3, 6]]) < 1e-5
    assert network.entry_bytes == sum(array.nbytes for array in read_part(tiny_model / "unet").values())
    network.attach(2, lora, 1.0)  # its place is given to another
    assert error(network([2] * 8, inputs), network([1] * 8, inputs)) < 1e-5


def test_what_an_entry_takes_is_its_matrices(network: Network, peft_model) -> None:
    assert network.entry_bytes == 0
    adapter = peft_model[1]["all"]
    network.admit(adapter, 1.0)
    network.attach(1, adapter, 1.0)
    matrices = [array for lora in adapter.modules["unet"].values() for array in (lora.down, lora.up)]
    assert network.entry_bytes == sum(array.nbytes for array in matrices if array is not None)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=40))
def test_blocks_say_the_entry_of_every_row(entries: list[int]) -> None:
    told = np.array(entries)[side_by_side(entries)]
    assert sorted(told.tolist()) == sorted(entries)
    blocks = in_blocks({ADAPTER: told})[ADAPTER]
    assert np.repeat(blocks, len(told) // len(blocks)).tolist() == told.tolist()


@given(st.lists(st.tuples(st.integers(1, 3), st.sampled_from(["a", "b", "ab"]), st.integers(1, 9)), min_size=1, max_size=8))
def test_banks_hold_what_was_attached_last_at_any_rank(steps: list[tuple[int, str, int]]) -> None:
    """Linear layers that share a bank: B A of every entry is that of the last attachment, zero for layers that it leaves alone."""
    sites = {name: Site(name, "matmul", 3, 4, down="down/a", position=i, sharing=2) for i, name in enumerate("ab")}
    rng, banks, expected = np.random.default_rng(0), Banks(sites, 4), np.zeros((4, 2, 3, 4))
    for number, (entry, modules, rank) in enumerate(steps):
        made = {name: (rng.normal(size=(rank, 3)).astype(np.float32), rng.normal(size=(4, rank)).astype(np.float32)) for name in modules}
        banks.attach(entry, made)
        if number == 3:
            banks = Banks(sites, 4, banks)
        expected[entry] = 0
        for name, (down, up) in made.items():
            expected[entry, "ab".index(name)] = (up.astype(float) @ down).T
    rank = banks.arrays["up/a"].shape[1]
    for i, name in enumerate("ab"):
        found = banks.arrays["down/a"][:, :, i * rank : (i + 1) * rank].astype(float) @ banks.arrays[f"up/{name}"]
        assert np.allclose(found, expected[:, i], atol=1e-4)


def test_both_ways_to_move_taps_are_the_same(peft_model, inputs, mixed, tiny_model: Path, cache: Path) -> None:
    """Providers without Col2Im get a convolution with a kernel of ones."""
    import onnx

    network = opened(tiny_model, cache, Cores(1, by_row=False))
    adapter: Adapter = peft_model[1]["all"]
    network.admit(adapter, 1.0)
    network.attach(1, adapter, 1.0)
    network([1] * 8, inputs)
    model = onnx.load(network._path, load_external_data=False)
    sites = add_branches(model, adapter.modules["unet"], "conv")
    assert "Col2Im" not in {node.op_type for node in model.graph.node}
    other = Graph(network._path, network._weights, network._cores, data=model.SerializeToString())
    assert network._banks is not None and sites == network._banks.sites
    told = other(**inputs, **{ADAPTER: np.ones(8, np.int64)}, **network._banks.arrays)
    assert error(told, network([1] * 8, inputs)) < 1e-5
    with pytest.raises(ModelError, match="no layer that computes nowhere alone"):
        add_branches(onnx.load(network._path, load_external_data=False), ["nowhere"])

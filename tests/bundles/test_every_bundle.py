"""What every bundle promises, whatever it does: its metadata, its configs, its network and what is exported of it."""

from __future__ import annotations

import inspect
import json
import sys
import warnings
from importlib.metadata import packages_distributions, version
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser, ckpt_export, onnx_export, verify_net_in_out
from monai.utils import optional_import

from warpzoo.errors import plain_reason
from warpzoo.networks import read_about

FOLDER = Path(__file__).parents[2] / "bundles"
NAMES = sorted(path.name for path in FOLDER.iterdir() if path.is_dir())
CONFIGS = ("metadata", "train", "inference", "evaluate", "multi_gpu_train")
SIZES = {2: ((64, 48), (51, 33)), 3: ((16, 24, 16), (19, 16, 13))}


@pytest.fixture(params=NAMES)
def root(request, bundle):
    """Of every bundle, on sys.path."""
    root = bundle(request.param)
    missing = [name for name in CONFIGS if not (root / "configs" / f"{name}.json").exists()]
    if missing:
        pytest.skip(f"{root.name} is not complete: it has no configs {', '.join(missing)}")
    return root


@pytest.fixture
def metadata(root):
    return json.loads((root / "configs" / "metadata.json").read_text(encoding="utf-8"))


def parser(root, *names):
    made = ConfigParser()
    made.read_config([str(root / "configs" / f"{name}.json") for name in names])
    return made


def test_metadata_obeys_the_schema(metadata, example_data):
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((example_data / "schema" / metadata["schema"].rpartition("/")[2]).read_text())
    jsonschema.validate(metadata, schema)
    del metadata["task"]
    with pytest.raises(jsonschema.ValidationError, match="task"):
        jsonschema.validate(metadata, schema)


def test_its_weights_say_which_network_they_are_of(root):
    about = read_about(root / "models" / "model.pt")
    assert about["bundle"] == root.name
    assert about["network_def"]["_target_"].startswith(f"{root.name}.network.")


def test_metadata_obeys_the_rules(metadata):
    required = (
        "schema version monai_version pytorch_version numpy_version required_packages_version task description authors "
        "copyright network_data_format name changelog intended_use data_source references"
    )
    assert set(required.split()) <= metadata.keys()
    assert metadata["schema"].endswith("/meta_schema_20240725.json")
    assert metadata["version"] in metadata["changelog"]
    assert "optional_packages_version" not in metadata  # MONAI would take it for the required ones
    assert all(part.isdigit() and len(part) == 1 for part in metadata["version"].split("."))  # compared as text
    spec = {"type", "format", "num_channels", "spatial_shape", "dtype", "value_range"}
    for side in ("inputs", "outputs"):
        for name, tensor in metadata["network_data_format"][side].items():
            assert spec <= tensor.keys(), name
            channels = tensor.get("channel_def")
            assert channels is None or len(channels) == tensor["num_channels"], name
    assert list(metadata["network_data_format"]["inputs"]) == ["image"]
    assert list(metadata["network_data_format"]["outputs"]) == ["pred"]
    pred = metadata["network_data_format"]["outputs"]["pred"]
    if pred["format"] == "registration":
        image, dims = metadata["network_data_format"]["inputs"]["image"], len(pred["spatial_shape"])
        assert list(image["channel_def"].values()) == ["moving", "fixed"]
        assert pred["num_channels"] == 1 + dims == 1 + len(image["spatial_shape"])
        assert "warped" in pred["channel_def"]["0"]
        for axis in range(dims):
            assert f"displacement along axis {axis}" in pred["channel_def"][str(1 + axis)]


def test_metadata_states_versions_that_are_installed(metadata):
    stated = {
        "monai": metadata["monai_version"],
        "torch": metadata["pytorch_version"],
        **metadata["required_packages_version"],
    }
    for name, wanted in stated.items():
        assert version(name).partition("+")[0] == wanted, name


def test_names_break_nobody_elses_rules():
    assert not set(NAMES) & set(packages_distributions())
    assert not set(NAMES) & set(sys.stdlib_module_names)
    for name in NAMES:
        assert "_v" not in name or not name.split("_v")[1][:1].isalpha(), name
        assert not [other for other in NAMES if other != name and name in other]
        assert not (FOLDER / name / "scripts").exists()
        assert {path.parent.name for path in (FOLDER / name).glob("*/__init__.py")} == {name}


def test_configs_are_json_of_four_spaces_that_end_in_a_newline(root):
    for path in root.glob("configs/**/*.json"):
        text = path.read_text(encoding="utf-8")
        assert text == json.dumps(json.loads(text), indent=4, ensure_ascii="\\u" in text) + "\n", path


def test_every_variant_goes_on_top_of_a_training(root):
    for path in sorted(root.glob("configs/variants/*.json")):
        config = ConfigParser(ConfigParser.load_config_files([str(root / "configs/train.json"), str(path)]))
        changes = json.loads(path.read_text(encoding="utf-8"))
        assert {key: config[key] for key in changes} == changes, path


def targets(root):
    """What all configs of a bundle make, by name."""

    def named(content):
        if isinstance(content, dict):
            yield from ([content["_target_"]] if "_target_" in content else [])
            content = list(content.values())
        for part in content if isinstance(content, list) else []:
            yield from named(part)

    configs = [json.loads(path.read_text(encoding="utf-8")) for path in root.glob("configs/**/*.json")]
    found = {target for config in configs for target in named(config)}
    assert len(found) > 15
    return {target: optional_import(target.rpartition(".")[0], name=target.rpartition(".")[2]) for target in found}


def test_every_target_of_every_config_is_there(root):
    for target, (_, there) in targets(root).items():
        assert there, target


def test_true_and_false_may_be_typed(root):
    # `--network_def#velocity false` arrives as text, which Python takes for true
    for target, (made, _) in targets(root).items():
        if inspect.isclass(made) and target.startswith(("warpzoo.training.", "warpzoo.denoising.", root.name)):
            for name, parameter in inspect.signature(made).parameters.items():
                if parameter.annotation in (bool, "bool"):
                    assert f'check_truth("{name}", {name})' in inspect.getsource(made.__init__), target
    config = parser(root, "train")
    network, _ = targets(root)[config["network_def"]["_target_"]]
    for name in {"velocity", "half_resolution"} & inspect.signature(network).parameters.keys():
        networks = []
        for value in (False, "false", "False", True):
            config = parser(root, "train")
            config[f"network_def#{name}"] = value
            networks.append(config.get_parsed_content("network_def").state_dict())
        shapes = [{key: value.shape for key, value in network.items()} for network in networks]
        assert shapes[0] == shapes[1] == shapes[2] != shapes[3]
        config[f"network_def#{name}"] = "maybe"
        config.ref_resolver.reset()
        with pytest.raises(RuntimeError) as error:
            config.get_parsed_content("network_def")
        assert f"{name} must be true or false, got 'maybe'" in plain_reason(error.value)


@pytest.mark.parametrize("name", ["train", "inference"])
def test_nothing_that_monai_asks_for_is_missing(root, start, name):
    # by name alone; `check_properties` would make everything, data too
    workflow = start(root, name)
    wanted = {entry["id"] for entry in workflow.properties.values() if entry["required"]}
    assert len(wanted) > 8
    assert [identifier for identifier in sorted(wanted) if identifier not in workflow.parser] == []


def test_several_processes_use_what_the_machine_has(root, monkeypatch):
    config = parser(root, "train", "multi_gpu_train")
    started = []
    monkeypatch.setattr("torch.distributed.init_process_group", started.append)
    monkeypatch.setattr("torch.distributed.get_rank", lambda: 1)
    monkeypatch.setattr("torch.cuda.set_device", started.append)
    for available, backend, device in ((False, "gloo", "cpu"), (True, "nccl", "cuda:1")):
        started.clear()
        monkeypatch.setattr(torch.cuda, "is_available", lambda available=available: available)
        monkeypatch.setenv("LOCAL_RANK", "1")
        config.ref_resolver.reset()
        assert str(config.get_parsed_content("device")) == device
        config.get_parsed_content("initialize")
        assert started == ([torch.device(device)] if available else []) + [backend]
        assert torch.initial_seed() == 1  # of its own
    assert len(config["finalize"]) == 2


def test_network_in_and_out_are_as_the_metadata_say(root):
    for size in (1, 21):
        verify_net_in_out(
            net_id="network_def",
            meta_file=str(root / "configs" / "metadata.json"),
            config_file=str(root / "configs" / "train.json"),
            any=size,
            device="cpu",
        )


def test_weights_fit_the_network_that_is_trained_and_the_one_that_infers(root):
    networks = [parser(root, name).get_parsed_content("network_def") for name in ("train", "inference")]
    assert str(networks[0]) == str(networks[1])
    networks[0].load_state_dict(networks[1].state_dict())
    path = root / "models" / "model.pt"
    if not path.exists():
        pytest.skip(f"{root.name} has no weights yet")
    state = torch.load(path, weights_only=True)
    networks[0].load_state_dict(state)
    assert all(bool(value.isfinite().all()) for value in state.values())


@pytest.fixture
def exported(root, metadata, arouse, pair_of, tmp_path):
    """`exported(exporter, "model.ts", …)` writes a network whose weights do something by MONAI's exporter; returns
    file, network and `images(size, batch)`, and checks that they do."""
    fresh, network = (parser(root, "train").get_parsed_content("network_def") for _ in range(2))
    image = metadata["network_data_format"]["inputs"]["image"]

    def images(size, batch=2):
        return pair_of(size, batch, seed=batch, channels=image["num_channels"])

    sizes = SIZES[len(image["spatial_shape"])]
    arouse(network, images(sizes[0], 4))
    with torch.no_grad():
        assert not torch.allclose(network(images(sizes[0])), fresh.eval()(images(sizes[0])), atol=0.5)
    torch.save(network.state_dict(), tmp_path / "model.pt")

    def export(exporter, name, **options):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exporter(
                net_id="network_def",
                filepath=str(tmp_path / name),
                ckpt_file=str(tmp_path / "model.pt"),
                meta_file=str(root / "configs" / "metadata.json"),
                config_file=str(root / "configs" / "train.json"),
                key_in_ckpt="",
                **options,
            )
        return str(tmp_path / name), network, images, sizes

    return export


def test_exported_torchscript_gives_the_same(exported, metadata):
    path, network, images, sizes = exported(ckpt_export, "model.ts")
    stored = {"metadata.json": ""}
    script = torch.jit.load(path, _extra_files=stored)
    assert json.loads(stored["metadata.json"])["network_data_format"] == metadata["network_data_format"]
    with torch.no_grad():
        for size in sizes:
            image = images(size)
            torch.testing.assert_close(script(image), network(image), rtol=0, atol=2e-3)


@pytest.mark.slow
def test_exported_onnx_gives_the_same(exported, metadata):
    onnxruntime = pytest.importorskip("onnxruntime")
    image = metadata["network_data_format"]["inputs"]["image"]
    dims = len(image["spatial_shape"])
    path, network, images, sizes = exported(
        onnx_export,
        "model.onnx",
        use_trace=True,  # without, what is said below about the exporter is not heard
        # without a shape, "*" in the metadata is taken for 1; without axes, sizes are fixed
        input_shape=[2, image["num_channels"], *SIZES[dims][0]],
        converter_kwargs={
            "input_names": ["image"],
            "output_names": ["pred"],
            "dynamic_axes": {"image": {0: "batch"} | {2 + axis: f"size_{axis}" for axis in range(dims)}},
            "dynamo": False,  # the other takes minutes for a 3-D pyramid
            "opset_version": 20,
        },
    )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for batch, size in zip((1, 3), sizes, strict=True):
        image = images(size, batch)
        (result,) = session.run(["pred"], {"image": image.numpy()})
        torch.testing.assert_close(torch.from_numpy(result), network(image).detach(), rtol=0, atol=2e-3)

"""Requirements: all that is missing is named at once, nothing is touched, a fit machine passes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from pi_repro.errors import StateError
from pi_repro.launch.requirements import Gpu, check, gpus, parse_gpus, refusal, visible
from pi_repro.plan.bill import Estimate
from pi_repro.plan.cost import estimate
from pi_repro.spec import supplied
from pi_repro.spec.experiment import Experiment
from pi_repro.spec.loading import Loaded, load

ROOT = Path(__file__).parents[2]
A100 = "NVIDIA A100-SXM4-40GB, 40960"


@dataclass(frozen=True)
class Folders:
    workspace: Path
    scratch: Path
    store: Path
    data_root: Path | None


@pytest.fixture(scope="module")
def paper() -> Loaded:
    return load(ROOT / "specs" / "pi_vs_random.yaml")


@pytest.fixture(scope="module")
def cost(paper: Loaded) -> Estimate:
    return estimate(paper.experiment, paper.cards, paper.model["architecture"])


@pytest.fixture
def small(cost: Estimate) -> Estimate:
    return replace(cost, output_bytes=1000, scratch_bytes=1000)


@pytest.fixture
def here(tmp_path: Path) -> Folders:
    return Folders(tmp_path, tmp_path / "scratch", tmp_path / "store", None)


def _driver(folder: Path, monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    """A program that answers as the driver's tool does, first on PATH."""
    folder.mkdir(exist_ok=True)
    tool = folder / "nvidia-smi"
    tool.write_text("#!/bin/sh\ncat <<'END'\n" + answer + "\nEND\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def _without_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


def test_a_laptop_is_told_all_at_once(
    paper: Loaded, cost: Estimate, here: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    _without_gpus(monkeypatch)
    huge = replace(cost, output_bytes=10**18)
    missing = check(paper.experiment, paper.cards, here, huge)
    assert [item.what for item in missing] == [
        "GPUs",
        "cluster site",
        "data root",
        "data zeroshot-29-2",
        "disk",
    ]
    error = refusal(missing, "pi-vs-random", "specs/pi_vs_random.yaml")
    assert isinstance(error, StateError) and error.exit_status == 3
    text = str(error)
    for part in (
        "8 CUDA GPUs of 40 GB",
        "no NVIDIA GPU",
        "slurm/sites",
        "PIREPRO_DATA_ROOT",
        "imagenet1k",
        "objectnet",
        "yfcc15m about 1.16 TB",
        "pirepro run specs/demo.yaml",
        "pirepro disable specs/pi_vs_random.yaml",
        "--slurm --site NAME",
    ):
        assert part in text
    assert "Traceback" not in text


def test_nothing_is_touched(paper: Loaded, cost: Estimate, here: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    _without_gpus(monkeypatch)
    check(paper.experiment, paper.cards, replace(here, data_root=here.workspace / "root"), cost)
    assert list(here.workspace.iterdir()) == []


def test_a_machine_with_everything_passes(
    paper: Loaded,
    small: Estimate,
    here: Folders,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    _driver(tmp_path_factory.mktemp("bin"), monkeypatch, "\n".join([A100] * 8))
    root = here.workspace / "root"
    for card in paper.cards.values():
        (root / card.name).mkdir(parents=True)
        index = here.workspace / "data" / card.name / ("suite.json" if card.kind == "suite" else "index.json")
        index.parent.mkdir(parents=True)
        index.write_text("{}")
    assert check(paper.experiment, paper.cards, replace(here, data_root=root), small) == []


def test_open_data_may_be_fetched_and_gated_data_must_be_brought(
    paper: Loaded, small: Estimate, here: Folders, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    places = replace(here, data_root=root)
    cards = {name: card.model_copy(update={"disk_bytes": 1000}) for name, card in paper.cards.items()}

    def found(**options: bool) -> list[str]:
        return [item.what for item in check(paper.experiment, cards, places, small, site="somewhere", **options)]

    assert found() == ["data zeroshot-29-2"]
    (root / "zeroshot-29-2" / "imagenet1k").mkdir(parents=True)
    (item,) = check(paper.experiment, cards, places, small, site="somewhere")
    assert "objectnet" in item.needed and "imagenet1k" not in item.needed
    (root / "zeroshot-29-2" / "objectnet").mkdir()
    assert found() == []
    assert found(download=False) == ["data nights", "data yfcc15m", "data zeroshot-29-2"]


def test_sets_with_terms_name_every_way_to_get_them(
    paper: Loaded, small: Estimate, here: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(supplied.ACCEPTED, "other")
    places, card = replace(here, data_root=here.workspace / "root"), paper.cards["zeroshot-29-2"]
    cards = {card.name: card.model_copy(update={"disk_bytes": 1000})}
    (item,) = check(paper.experiment, cards, places, small, site="somewhere")
    assert item.needed == "2 sets whose terms you must accept: imagenet1k, objectnet"
    command = "pirepro data fetch zeroshot-29-2 --from imagenet1k=PATH --from objectnet=PATH"
    for part in ("PIREPRO_ACCEPTED=other,imagenet1k,objectnet\n", command, "image-net.org", "objectnet.dev"):
        assert part in item.todo
    monkeypatch.setenv(supplied.ACCEPTED, "other,imagenet1k,objectnet")
    assert check(paper.experiment, cards, places, small, site="somewhere") == []
    # A set that no server offers is not got by accepting its terms.
    monkeypatch.delenv(supplied.ACCEPTED)
    sources = tuple(s.model_copy(update={"locator": "by hand"}) if s.access == "gated" else s for s in card.sources)
    cards[card.name] = cards[card.name].model_copy(update={"sources": sources})
    (item,) = check(paper.experiment, cards, places, small, site="somewhere")
    assert "PIREPRO_ACCEPTED" not in item.todo and command in item.todo


def test_a_cluster_answers_for_its_own_devices(
    paper: Loaded, small: Estimate, here: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    _without_gpus(monkeypatch)
    what = [item.what for item in check(paper.experiment, paper.cards, here, small, site="somewhere")]
    assert "GPUs" not in what and "cluster site" not in what
    (here.workspace / "slurm" / "sites").mkdir(parents=True)
    (here.workspace / "slurm" / "sites" / "mine.yaml").write_text("name: mine\n")
    what = [item.what for item in check(paper.experiment, paper.cards, here, small)]
    assert "GPUs" in what and "cluster site" not in what


def test_fewer_gpus_are_offered_with_the_same_bits(
    paper: Loaded,
    small: Estimate,
    here: Folders,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    _driver(tmp_path_factory.mktemp("bin"), monkeypatch, "\n".join([A100] * 3 + ["NVIDIA T4, 15360"]))
    item = check(paper.experiment, paper.cards, here, small)[0]
    assert item.what == "GPUs" and "resources.gpus: 2" in item.todo and "T4 (16.11 GB)" in item.found


def test_a_cpu_experiment_needs_no_gpu(
    paper: Loaded, small: Estimate, here: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    _without_gpus(monkeypatch)
    science = paper.experiment.science.model_copy(update={"device": "cpu"})
    experiment: Experiment = paper.experiment.model_copy(update={"science": science})
    cards = {
        name: card.model_copy(update={"location": "workspace", "disk_bytes": 1000, "sources": card.sources[1:2]})
        for name, card in paper.cards.items()
    }
    assert check(experiment, cards, here, small) == []


def test_folders_of_one_disk_add_up_and_published_outputs_do_not_count(
    paper: Loaded, cost: Estimate, here: Folders
) -> None:
    huge = replace(cost, output_bytes=10**18, scratch_bytes=10**17)
    (disk,) = [item for item in check(paper.experiment, paper.cards, here, huge) if item.what == "disk"]
    assert "3,100,000.00 TB" in disk.needed  # store 1, workspace and cache 2, scratch 0.1 exabytes
    done = check(paper.experiment, paper.cards, here, huge, published_bytes=10**18)
    assert not [item for item in done if item.what == "disk"]


def test_what_the_driver_says() -> None:
    assert parse_gpus(f"{A100}\nNVIDIA GB10, [N/A]\n") == (
        Gpu("NVIDIA A100-SXM4-40GB", 40960 * 2**20),
        Gpu("NVIDIA GB10", None),
    )
    assert parse_gpus("") == ()


@pytest.mark.parametrize(
    ("variable", "names"),
    [
        (None, "abcd"),
        ("", ""),
        ("1,0", "ba"),
        ("-1", ""),
        ("0,9,1", "a"),
        ("GPU-aa,GPU-bb", "ab"),
        (" 3 ", "d"),
    ],
)
def test_visible_devices(variable: str | None, names: str) -> None:
    found = [Gpu(name, None) for name in "abcd"]
    assert "".join(gpu.name for gpu in visible(found, variable)) == names


def test_a_driver_that_fails_means_no_gpu_or_what_proc_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho broken >&2\nexit 9\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    folder = Path("/proc/driver/nvidia/gpus")
    assert len(gpus()) == (len(list(folder.iterdir())) if folder.is_dir() else 0)

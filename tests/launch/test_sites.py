"""Which site jobs go to, what it moves, and site files written from what a cluster tells."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from pi_repro.errors import RequestError, StateError
from pi_repro.launch.doctor import Check
from pi_repro.launch.places import Places
from pi_repro.launch.slurm import examine, probe, proposal, queue, sites
from pi_repro.launch.slurm.probe import Accounts, Found, Partition
from pi_repro.terminal import site as terminal

FOUND = Found(
    partitions=probe.read_partitions(
        "cpu*|40|64|257000|2-00:00:00|up|(null)\n"
        "gpu|8|128|1031000|4:00:00|up|gpu:a100:4(S:0-3)\n"
        "gpu|2|64|515000|4:00:00|up|gpu:v100:8,shard:32\n"
        "gpu|1|64|515000|4:00:00|up|(null)\n"
        "old|2|64|515000|infinite|down|gpu:4\n"
    ),
    accounts=Accounts("lab", ("lab", "course"), ("normal", "high")),
    accounting=False,
    runtimes=("apptainer", "podman"),
    pyxis=False,
    roots=((Path("/scratch/me"), "lustre, shared"), (Path("/home/me"), "nfs, shared")),
)


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv(sites.VARIABLE, raising=False)
    folder = sites.folder(tmp_path)
    folder.mkdir(parents=True)
    for name in ("mine", "yours"):
        (folder / f"{name}.yaml").write_text(f"name: {name}\nruntime: {{kind: apptainer, image: i.sif}}\n")
    return tmp_path


def test_a_site_is_found_by_name_and_by_path(workspace: Path) -> None:
    assert sites.names(workspace) == ["mine", "yours"]
    for given in ("mine", str(sites.folder(workspace) / "mine.yaml")):
        assert sites.load(given, workspace).runtime.image == str(workspace / "i.sif")
    with pytest.raises(RequestError, match=r"mine, yours[\s\S]*did you mean 'yours'"):
        sites.load("yuors", workspace)


def test_a_choice_stays_until_another_and_the_variable_wins(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sites.chosen(workspace) is None
    sites.choose(workspace, "mine")
    assert sites.chosen(workspace) == "mine"
    with pytest.raises(RequestError):
        sites.choose(workspace, "none-such")
    assert sites.chosen(workspace) == "mine"
    monkeypatch.setenv(sites.VARIABLE, "yours")
    assert sites.chosen(workspace) == "yours"
    monkeypatch.delenv(sites.VARIABLE)
    sites.choose(workspace, None)
    assert sites.chosen(workspace) is None


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "CUBLAS_WORKSPACE_CONFIG", "PYTHONPATH", "PIREPRO_STORE"])
def test_a_site_cannot_change_what_bits_depend_on(workspace: Path, name: str) -> None:
    path = sites.folder(workspace) / "mine.yaml"
    path.write_text(f"name: mine\nruntime: {{kind: none}}\nenvironment:\n  NCCL_DEBUG: WARN\n  {name}: x\n")
    with pytest.raises(RequestError, match=rf"mine.yaml:5, environment.{name}"):
        sites.load("mine", workspace)


def test_a_site_moves_places_and_a_variable_wins(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SCRATCH", "STORE", "DOWNLOADS", "DATA_ROOT"):
        monkeypatch.delenv(f"PIREPRO_{name}", raising=False)
    monkeypatch.setenv("PIREPRO_STORE", str(workspace / "env"))
    own = workspace / ".pirepro"
    here = Places(workspace, own / "scratch", workspace / "env", own / "downloads", None)
    site = sites.load("mine", workspace).model_copy(update={"scratch": "/s", "store": "/t", "data_root": "/d"})
    assert sites.places(site, here) == replace(here, scratch=Path("/s"), data_root=Path("/d"))


def test_what_sinfo_says_is_read() -> None:
    cpu, gpu = FOUND.partitions
    assert (cpu.name, cpu.default, cpu.gpus, cpu.minutes) == ("cpu", True, 0, 2880)
    # Of unlike nodes the least; those without GPU don't count.
    assert (gpu.nodes, gpu.gpus, gpu.gpu_types, gpu.cpus, gpu.minutes) == (10, 4, ("a100", "v100"), 64, 240)
    assert probe.read_gres("gpu:a:1,gpu:b:3") == (4, ("a", "b")) and probe.read_gres("gpu") == (1, ())
    # SLURM_CLUSTERS puts a title first.
    assert [part.name for part in probe.read_partitions("CLUSTER: a\nx|1|1|1|1:00|up|(null)\n")] == ["x"]
    assert [probe.read_minutes(text) for text in ("infinite", "30:00", "12:00:00", "1-00:30:00")] == [
        None,
        30,
        720,
        1470,
    ]


def test_file_systems_are_told_apart(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text("x / ext4 rw 0 0\nx /a\\040b lustre rw 0 0\nx /a\\040b/c tmpfs rw 0 0\n")
    kinds = [probe.filesystem(Path(path), mounts).split(",")[0] for path in ("/a b/x", "/a b/c", "/a bc", "/")]
    assert kinds == ["lustre", "tmpfs", "ext4", "ext4"]


def test_without_slurm_one_is_told_where_to_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StateError, match="login node"):
        probe.probe(tmp_path)


def test_what_is_likely_makes_a_valid_site(workspace: Path) -> None:
    path = sites.write(workspace, "new", proposal.text("new", FOUND, proposal.likely(FOUND)))
    site = sites.load("new", workspace)
    assert (site.partition, site.cpu_partition, site.account) == ("gpu", "cpu", "lab")
    assert (site.gpus_per_node, site.cpus_per_gpu, site.memory_per_gpu_gb) == (4, 16, 113)
    assert site.minutes["pretrain"] == 240 and site.minutes["draw"] == 30
    assert (site.scratch, site.accounting, site.runtime.kind) == ("/scratch/me/pi-repro", False, "none")
    assert "course" in path.read_text()
    with pytest.raises(RequestError, match="there is a site of this name"):
        sites.write(workspace, "new", "")


@pytest.mark.parametrize(
    ("cpu", "gpu", "pretrain", "signal_s"),
    [("4:00:00", "1-00:00:00", 240, 120), ("infinite", "4:00:00", 240, 120), ("2:00", "1-00:00:00", 2, 60)],
)
def test_limits_are_those_that_both_partitions_allow(
    workspace: Path, cpu: str, gpu: str, pretrain: int, signal_s: int
) -> None:
    rows = f"cpu*|40|64|257000|{cpu}|up|(null)\ngpu|8|128|1031000|{gpu}|up|gpu:a100:4\n"
    found = replace(FOUND, partitions=probe.read_partitions(rows))
    sites.write(workspace, "new", proposal.text("new", found, proposal.likely(found)))
    site = sites.load("new", workspace)
    assert site.cpu_partition == "cpu" and (site.minutes["pretrain"], site.signal_s) == (pretrain, signal_s)
    # Whoever names no partition gets the default one's limit.
    wishes = replace(proposal.likely(found), partition=None, cpu_partition=None)
    sites.write(workspace, "bare", proposal.text("bare", found, wishes))
    default = found.partitions[0].minutes or 1440
    assert sites.load("bare", workspace).minutes["pretrain"] == default


def _doctor(workspace: Path, monkeypatch: pytest.MonkeyPatch, **fields: object) -> dict[str, Check]:
    """The checks before any job, on a cluster that shows FOUND's partitions and hides one."""

    def partitions(hidden: str | None = None) -> tuple[Partition, ...]:
        secret = probe.read_partitions("secret|1|8|16000|1:00:00|up|(null)\n")
        return FOUND.partitions if hidden is None else tuple(part for part in secret if part.name == hidden)

    monkeypatch.setattr(probe, "partitions", partitions)
    path = sites.folder(workspace) / "mine.yaml"
    path.write_text(json.dumps({"name": "mine", "runtime": {"kind": "none"}, **fields}))
    own = workspace / "file"
    own.write_text("")
    # No folder can be made below a file, so that no job is sent.
    places = Places(workspace, own / "scratch", own / "store", own / "downloads", None)
    return {check.what: check for check in examine.examine("mine", places)}


def test_a_folder_that_can_not_be_used_is_a_finding(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = _doctor(workspace, monkeypatch)["folders"]
    assert not folders.good and "Not a directory" in folders.found and "scratch" in folders.todo


def test_limits_beyond_the_partition_s_are_told(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = _doctor(workspace, monkeypatch, partition="gpu")["minutes"]
    assert told.needed and "240" in told.found and "pretrain" in told.found and "fetch" not in told.found
    within = dict.fromkeys(("initialize", "pretrain", "joint", "finetune", "evaluate", "probe"), 60)
    assert "minutes" not in _doctor(workspace, monkeypatch, partition="gpu", minutes=within)
    # What needs no GPU goes to the other partition; trainings only where an experiment has no GPU.
    assert "minutes" not in _doctor(workspace, monkeypatch, partition="cpu", cpu_partition="gpu", minutes=within)
    note = _doctor(workspace, monkeypatch, partition="cpu", cpu_partition="gpu")["minutes"]
    assert not note.needed and "jobs in gpu" in note.found


def test_a_hidden_partition_is_asked_for_by_its_name(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = _doctor(workspace, monkeypatch, partition="secret")
    assert "partition" not in found and "60 min" in found["minutes"].found
    refused = _doctor(workspace, monkeypatch, partition="secrets")["partition"]
    assert not refused.good and "cpu, gpu" in refused.todo


def test_a_job_that_spoke_and_is_heard_of_no_more_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "started.json").write_text('{"time": 1.0}')
    clock = iter(range(0, 100_000, 30))
    monkeypatch.setattr(examine.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(examine.time, "sleep", lambda _: None)
    monkeypatch.setattr(queue, "rows", lambda _: None)
    row, waited = examine._wait(tmp_path, "7", "x", 5.0, print, 60.0)
    assert row is None and waited is not None and next(clock) < 2000


def test_a_cluster_of_which_nothing_is_known_makes_a_valid_site(workspace: Path) -> None:
    bare = Found((), Accounts(None, (), ()), False, (), False, ())
    sites.write(workspace, "new", proposal.text("new", bare, proposal.likely(bare)))
    assert sites.load("new", workspace).partition is None


def test_an_image_that_was_made_is_taken_with_a_runtime_that_takes_it(workspace: Path) -> None:
    folder = workspace / ".pirepro" / "images"
    (folder / "a" / "opt" / "pirepro").mkdir(parents=True)
    (folder / "a" / "opt" / "pirepro" / "manifest.json").touch()
    for name in ("a.sif", "a.squashfs", "a.tar", ".part.a.squashfs"):
        (folder / name).touch()
    images = probe.images(workspace)
    assert images == (".pirepro/images/a", ".pirepro/images/a.sif", ".pirepro/images/a.squashfs")
    made = {"apptainer": images[1], "ch-run": images[0], "podman": None}
    for runtime, image in made.items():
        found = replace(FOUND, runtimes=(runtime,), images=images)
        wishes = proposal.likely(found)
        assert wishes.image == image and wishes.runtime == (probe.RUNTIMES[runtime] if image else "none")
        sites.write(workspace, f"with-{runtime}", proposal.text(f"with-{runtime}", found, wishes))
    # A name may hold a dot.
    (folder / "a").rename(folder / "v1.2")
    dotted = replace(FOUND, images=probe.images(workspace))
    assert proposal.image_for("charliecloud", dotted) == ".pirepro/images/v1.2"
    stored = replace(FOUND, stored=(("docker", "localhost/pirepro:d"), ("podman", "localhost/pirepro:p")))
    assert proposal.image_for("podman", stored) == "localhost/pirepro:p"
    assert proposal.likely(stored).runtime == "podman"
    # Singularity is apptainer's older name.
    old = replace(FOUND, runtimes=("singularity",), images=images)
    sites.write(workspace, "old", proposal.text("old", old, proposal.likely(old)))
    runtime = sites.load("old", workspace).runtime
    assert (runtime.kind, runtime.program) == ("apptainer", "singularity")
    pyxis = replace(FOUND, runtimes=(), pyxis=True, images=images)
    sites.write(workspace, "pyxis", proposal.text("pyxis", pyxis, proposal.likely(pyxis)))
    runtime = sites.load("pyxis", workspace).runtime
    assert (runtime.kind, runtime.image) == ("template", str(workspace / images[2]))


def test_answers_reach_the_file_as_they_are_and_wrong_ones_write_nothing(workspace: Path) -> None:
    answers = {
        "Partition of jobs with GPUs": "gpu",
        "Account": "lab; $(touch x) # 'y'",
        "Folder for scratch": "/my scratch/$(id)",
        "Folder for large": "~",
        "Container": "apptainer",
        "Image": "images/a b.sif",
    }

    def prompt(question: str, allowed: Sequence[str], default: str | None) -> str | None:
        return next((answer for begin, answer in answers.items() if question.startswith(begin)), None)

    wishes = terminal.ask(FOUND, proposal.likely(FOUND), prompt)
    text = proposal.text("new", FOUND, wishes)
    sites.write(workspace, "new", text)
    site = sites.load("new", workspace)
    assert (site.account, site.scratch) == (answers["Account"], answers["Folder for scratch"])
    assert site.data_root == str(Path.home())
    assert (site.runtime.image, site.cpu_partition) == (str(workspace / "images/a b.sif"), None)
    with pytest.raises(RequestError):
        sites.write(workspace, "other", text.replace("name: new", 'name: "other"').replace("partition: gpu", "part: x"))
    assert not (sites.folder(workspace) / "other.yaml").exists()


@pytest.mark.parametrize("name", ["", "../x", "A", "a b", "a--b", "x" * 49])
def test_names_of_sites_are_names_of_files(workspace: Path, name: str) -> None:
    with pytest.raises(RequestError, match="no name for a site"):
        sites.new(workspace, name)


def test_the_example_is_what_the_code_says() -> None:
    root = Path(__file__).parents[2]
    site = sites.load("example", root)
    given = yaml.safe_load((sites.folder(root) / "example.yaml").read_text())
    assert set(given) <= set(type(site).model_fields) and given["minutes"] == site.minutes

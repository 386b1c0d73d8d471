"""Seeding, devices, int8, distributed helpers and stop signals."""

import os
import random
import signal
import socket
import time
from datetime import timedelta

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn

from data.errors import UserError
from modules.config import Precision
from modules.runtime import (
    StopSignals,
    arrange_for_batches,
    autocast,
    broadcast_object,
    choose_precision,
    configure_backends,
    distributed,
    gather_objects,
    ignore_stop_signals,
    is_rank_zero,
    quantise_decoder,
    random_state,
    rank,
    restore_random_state,
    run_on_rank_zero,
    seed_everything,
    select_device,
    sum_over_processes,
    world_size,
)


def draws() -> tuple:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_seed_decides_every_generator():
    seed_everything(3)
    first = draws()
    seed_everything(3)
    assert draws() == first
    seed_everything(4)
    assert not set(draws()) & set(first)


def test_processes_draw_different_numbers():
    seed_everything(3, rank=0)
    first = draws()
    seed_everything(3, rank=1)
    assert not set(draws()) & set(first)


def test_draws_differ_between_first_steps():
    seed_everything(3, rank=1)
    first = draws()
    seed_everything(3, rank=1, step=7)
    assert not set(draws()) & set(first)


def test_random_state_survives_a_file_that_executes_nothing(tmp_path):
    seed_everything(0)
    random.gauss(0, 1), np.random.randn()  # leaves the second number of a pair cached
    torch.save(random_state(), tmp_path / "state.pt")
    expected = draws(), random.gauss(0, 1), float(np.random.randn())
    draws()
    restore_random_state(torch.load(tmp_path / "state.pt", weights_only=True))
    assert (draws(), random.gauss(0, 1), float(np.random.randn())) == expected


class WithDecoder(nn.Module):
    """A model as `quantise_decoder` needs it."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(64, 64)
        self.decoder = nn.Sequential(nn.Linear(64, 64), nn.LayerNorm(64), nn.Linear(64, 9))


def test_int8_is_near_fp32_and_in_the_decoder_alone(recwarn):
    torch.manual_seed(0)
    model, rows = WithDecoder(), torch.randn(50, 64)
    expected = model.decoder(rows)
    quantise_decoder(model, torch.device("cpu"))
    assert not list(recwarn)
    quantised = model.decoder(rows)
    assert 0 < (quantised - expected).abs().max() < 0.05
    assert type(model.encoder) is nn.Linear and not any(type(part) is nn.Linear for part in model.decoder)


def test_weights_arranged_for_batches_keep_their_values():
    torch.manual_seed(0)
    model, rows = WithDecoder(), torch.randn(50, 64)
    weights, expected = {name: weight.clone() for name, weight in model.state_dict().items()}, model.decoder(rows)
    arrange_for_batches(model, torch.device("cuda"))
    assert model.decoder[0].weight.is_contiguous()
    arrange_for_batches(model, torch.device("cpu"))
    assert model.decoder[0].weight.t().is_contiguous() and model.encoder.weight.is_contiguous()
    assert all(torch.equal(weight, weights[name]) for name, weight in model.state_dict().items())
    torch.testing.assert_close(model.decoder(rows), expected)


def test_int8_is_refused_on_a_gpu():
    with pytest.raises(UserError, match="eval.int8=true needs a CPU, but the device is cuda: use train.device=cpu"):
        quantise_decoder(WithDecoder(), torch.device("cuda"))


def test_device_by_name(monkeypatch):
    assert select_device("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert select_device("auto") == torch.device("cpu")
    with pytest.raises(UserError, match="train.device=cuda, but PyTorch finds no GPU: use train.device=cpu"):
        select_device("cuda")


def test_a_process_without_a_gpu_of_its_own_says_so(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(UserError, match="No GPU for process 2 of this machine, which has 2: start as many"):
        select_device("auto")


@pytest.mark.parametrize(
    ("precision", "kind"),
    [(Precision.FP32, torch.float32), (Precision.BF16, torch.bfloat16), (Precision.FP16, torch.float16)],
)
def test_autocast_decides_the_arithmetic_of_products(precision, kind):
    with autocast(precision, torch.device("cpu")):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == kind


@pytest.mark.parametrize(
    ("device", "computes_bf16", "chosen"),
    [("cpu", True, Precision.FP32), ("cuda", True, Precision.BF16), ("cuda", False, Precision.FP32)],
)
def test_automatic_precision_is_bf16_where_a_gpu_computes_with_it(monkeypatch, device, computes_bf16, chosen):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: computes_bf16)
    assert choose_precision(Precision.AUTO, torch.device(device)) == chosen
    assert choose_precision(Precision.FP16, torch.device(device)) == Precision.FP16


@pytest.fixture
def backends(monkeypatch):
    """Restores the settings of PyTorch's backends."""
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    saved = torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    yield torch.backends
    torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32 = saved[:2]
    torch.set_float32_matmul_precision(saved[2])
    torch.use_deterministic_algorithms(False)


def test_a_gpu_computes_fast_by_default(backends):
    configure_backends(torch.device("cuda"))
    assert backends.cuda.matmul.allow_tf32 and backends.cudnn.allow_tf32 and backends.cudnn.benchmark
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_gpu_computes_the_same_twice_if_asked(backends):
    configure_backends(torch.device("cuda"), deterministic=True)
    assert torch.are_deterministic_algorithms_enabled() and not backends.cudnn.benchmark
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


def test_a_cpu_is_left_alone(backends):
    configure_backends(torch.device("cpu"))
    assert not backends.cudnn.benchmark and torch.get_float32_matmul_precision() == "highest"


def test_one_process_is_the_ordinary_case(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with distributed(torch.device("cpu")):
        assert (rank(), world_size(), is_rank_zero()) == (0, 1, True)
        assert gather_objects("a") == ["a"]
        assert broadcast_object("a") == "a"
        assert sum_over_processes(torch.tensor(2.0)) == 2
        assert run_on_rank_zero(lambda: "a") == "a"


@pytest.mark.parametrize("own_rank", [0, 1])
def test_a_process_whose_others_do_not_start_ends_with_one_line(monkeypatch, own_rank):
    monkeypatch.setattr("modules.runtime._MEETING_ON_ONE_MACHINE", timedelta(seconds=1))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    variables = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    for name, value in (variables | {"RANK": str(own_rank)}).items():
        monkeypatch.setenv(name, value)
    message = rf"^Rank {own_rank}: not all of the 2 processes have met at 127.0.0.1:{port} within 1 s \(.+\): start all"
    with pytest.raises(UserError, match=message) as caught, distributed(torch.device("cpu")):
        pass
    assert "\n" not in str(caught.value)


def test_a_process_whose_other_ends_while_they_connect_ends_with_one_line(monkeypatch, capfd):
    monkeypatch.setattr("modules.runtime._MEETING_ON_ONE_MACHINE", timedelta(seconds=0.2))
    monkeypatch.setattr(dist, "rendezvous", lambda *_, **__: iter([(None, 0, 2)]))
    monkeypatch.setattr(dist, "init_process_group", lambda *_, **__: time.sleep(100))
    variables = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "1", "RANK": "0"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    child = os.fork()
    if child == 0:
        with distributed(torch.device("cpu")):
            os._exit(17)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
    printed = capfd.readouterr().err.splitlines()
    assert len(printed) == 1
    assert printed[0].startswith("Rank 0: not all of the 2 processes have met at a:1 within 0 s (one has ended while")


def test_an_error_in_the_first_process_keeps_its_line():
    def fail() -> None:
        raise UserError("no space")

    with pytest.raises(UserError, match="^no space$"):
        run_on_rank_zero(fail)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stop_signals_are_noted_and_handlers_put_back(number):
    before = signal.getsignal(number)
    with StopSignals() as signals:
        assert signals.received == 0
        os.kill(os.getpid(), number)
        assert signals.received == number
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.received == number
    assert signal.getsignal(number) == before


def test_loader_workers_live_on_after_a_stop_signal():
    child = os.fork()
    if child == 0:
        ignore_stop_signals(0)
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        os._exit(17)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 17

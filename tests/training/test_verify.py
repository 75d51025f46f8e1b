import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pointsman.adapters import LoraSettings, Network, find_base
from pointsman.training import verify as module
from pointsman.training.verify import main, verify

CLAIMS = 6


def failing(checks: list[module.Check]) -> list[str]:
    return [check.claim for check in checks if not check.holds]


def test_every_claim_holds_on_the_tiny_base(tiny_base: Path) -> None:
    checks = verify(find_base(tiny_base), lora=LoraSettings(rank=1, alpha=2), steps=3)

    assert failing(checks) == []
    assert len(checks) == CLAIMS
    assert all(check.figure for check in checks)


def test_the_command_prints_one_line_a_claim_and_ends_well(tiny_base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--base", str(tiny_base), "--rank", "1", "--steps", "2"]) == 0

    head, *lines = capsys.readouterr().out.splitlines()
    assert head == "tiny-bert (bert), rank 1, alpha 16"
    assert len(lines) == CLAIMS
    assert all(line.startswith("ok    ") for line in lines)
    assert "fewer than 5% of the parameters are trained: " in lines[1]


def test_too_large_a_share_fails_and_so_does_the_command(tiny_base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--base", str(tiny_base), "--rank", "32", "--steps", "1"]) == 1

    failed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("FAIL")]
    assert len(failed) == 1
    assert "fewer than 5%" in failed[0]


def test_a_wrong_base_is_an_error_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--base", "/no/such/folder"]) == 1

    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "/no/such/folder" in captured.err


def with_unfrozen_base(network: Network, settings: LoraSettings) -> None:
    add_lora(network, settings)
    next(p for name, p in network.model.named_parameters() if "LayerNorm" in name).requires_grad_()


def with_noise_in_b(network: Network, settings: LoraSettings) -> None:
    import torch

    add_lora(network, settings)
    with torch.no_grad():
        for name, parameter in network.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()


add_lora = module.add_lora


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        pytest.param(with_unfrozen_base, ["gradients reach", "leave the base as it was"], id="base-is-trained"),
        pytest.param(with_noise_in_b, ["no effect"], id="b-is-not-zero"),
    ],
)
def test_a_broken_implementation_is_found_out(
    tiny_base: Path, monkeypatch: pytest.MonkeyPatch, broken: Any, said: list[str]
) -> None:
    monkeypatch.setattr(module, "add_lora", broken)
    failed = failing(verify(find_base(tiny_base), lora=LoraSettings(rank=1), steps=3))

    assert all(any(part in claim for claim in failed) for part in said), failed


def test_a_merge_of_the_wrong_scale_is_found_out(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    merge = module.merge_adapter

    def twice(network: Network, folder: Path) -> None:
        path = folder / "adapter_config.json"
        path.write_text(path.read_text().replace('"lora_alpha": 16', '"lora_alpha": 32'))
        merge(network, folder)
        path.write_text(path.read_text().replace('"lora_alpha": 32', '"lora_alpha": 16'))

    monkeypatch.setattr(module, "merge_adapter", twice)
    failed = failing(verify(find_base(tiny_base), lora=LoraSettings(rank=1), steps=3))

    assert len(failed) == 2
    assert any("B A" in claim for claim in failed)
    assert any("loaded from disk" in claim for claim in failed)


@pytest.mark.slow
def test_it_runs_as_a_module(tiny_base: Path) -> None:
    command = [sys.executable, "-W", "error::RuntimeWarning", "-m", "pointsman.training.verify"]
    done = subprocess.run(
        [*command, "--base", str(tiny_base), "--rank", "1"], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("ok  ") == CLAIMS


@pytest.mark.model
@pytest.mark.slow
def test_every_claim_holds_on_the_real_base(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "FAIL" not in capsys.readouterr().out

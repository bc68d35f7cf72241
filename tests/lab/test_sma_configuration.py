"""SMA runs with its configuration, also where the run that wrote it ended before it started SMA anew."""

from __future__ import annotations

from pathlib import Path

from support.small_lab import LAB, PLAYBOOK, docker, run

PORT = "8081"


def sma() -> str:
    """The id of its container."""
    return docker("inspect", "--format", "{{.Id}}", f"{LAB}-cipu-sma")


def deploy(lab: Path) -> None:
    """Ends well only if SMA answers where the inventory says."""
    run(PLAYBOOK, "-i", str(lab), "playbooks/deploy.yml", "--extra-vars", f"ipu_sma_port={PORT}")


def test_a_run_that_was_interrupted_is_caught_up_on(lab: Path) -> None:
    before = sma()
    configuration = lab.parent / "state" / "cipu" / "sma.yml"
    text = configuration.read_text(encoding="utf-8")
    assert text.count("port: 8080\n") == 1
    configuration.write_text(text.replace("port: 8080\n", f"port: {PORT}\n"), encoding="utf-8")

    deploy(lab)
    written, anew = configuration.read_text(encoding="utf-8"), sma()
    assert f"port: {PORT}\n" in written and anew != before

    deploy(lab)
    assert sma() == anew, "nothing was to do"

"""The report as a reader gets it: made by its playbook, opened from disk in a headless browser."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.ipdk.storage.plugins.plugin_utils import page
from samples import (
    BENCH,
    DEMO,
    DIRECT,
    DISKS,
    DRIFT,
    QOS_AFTER,
    QOS_BEFORE,
    QOS_LIMITED,
    TEMPLATE,
    UNLISTED,
    VIRTUAL,
    disk,
    job,
    known,
)
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from support.emulator import Emulator

ROOT = Path(__file__).resolve().parents[3]
WIDTHS = (400, 1400)
SCHEMES = ("light", "dark")
FILES = {
    "demo": DEMO,
    "bench": BENCH,
    "drift": DRIFT,
    "before": QOS_BEFORE,
    "limited": QOS_LIMITED,
    "after": QOS_AFTER,
    "direct": DIRECT,
    "virtual": VIRTUAL,
}
INVENTORY = {
    "storage_targets": {
        "hosts": {"st1": {"storage_target_address": "198.18.0.10"}, "st2": {"storage_target_address": "198.18.0.11"}}
    },
    "ipus": {"hosts": {"ipu1": {}, "ipu2": {}}},
    "ipu_hosts": {
        "hosts": {
            # Nobody listens there.
            "host1": {"host_ipu": "ipu1", "ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 1},
            "host2": {"host_ipu": "ipu2", "ipdk_host_access": "none"},
        }
    },
    "lab_platforms": {"hosts": {"localhost": {}}},
    "all": {
        "vars": {"ansible_connection": "local", "ansible_python_interpreter": "{{ ansible_playbook_python }}"},
    },
}


def playbook(directory: Path, path: str | Path, variables: dict[str, Any], check: bool = True) -> str:
    inventory = directory / "inventory.yml"
    inventory.write_text(yaml.safe_dump(INVENTORY), encoding="utf-8")
    tool = [sys.executable, str(Path(sys.executable).parent / "ansible-playbook"), "-i", str(inventory), str(path)]
    env = {
        **os.environ,
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "build" / "collections"),
        "ANSIBLE_FORCE_COLOR": "0",
    }
    command = [*tool, "--extra-vars", json.dumps({"report_look": False, **variables})]
    done = subprocess.run(command, cwd=ROOT, env=env, text=True, capture_output=True, check=False, timeout=300)
    output = done.stdout + done.stderr
    assert (done.returncode == 0) is check, output
    return output


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("results")
    for name, data in FILES.items():
        (directory / f"{name}.json").write_text(json.dumps(data), encoding="utf-8")
    return directory


@pytest.fixture(scope="module")
def variables(results: Path) -> dict[str, Any]:
    path = {name: str(results / f"{name}.json") for name in FILES}
    return {
        "report_output": str(results / "report.html"),
        "report_demo": path["demo"],
        "report_bench": path["bench"],
        "report_drift": path["drift"],
        "report_fio": [
            {"title": "QoS", "runs": {key: path[key] for key in ("before", "limited", "after")}},
            {"title": "Virtual against direct", "runs": {key: path[key] for key in ("direct", "virtual")}},
        ],
    }


@pytest.fixture(scope="module")
def report(results: Path, variables: dict[str, Any]) -> Path:
    """The page that the role makes, with the facts that virtual_disks leaves on the nodes."""
    facts = {"virtual_disks_result": DISKS, "virtual_disks_unlisted": UNLISTED}
    plays = [
        {"hosts": "st2", "gather_facts": False, "tasks": [{"ansible.builtin.set_fact": facts}]},
        {"hosts": "localhost", "gather_facts": False, "roles": [{"role": "ipdk.storage.report"}]},
    ]
    path = results / "report.yml"
    path.write_text(yaml.safe_dump(plays), encoding="utf-8")
    playbook(results, path, variables)
    assert "changed=0" in playbook(results, path, variables).splitlines()[-3], "a second run changed something"
    return results / "report.html"


class Browser:
    def __init__(self) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = "/usr/bin/chromium"
        # Tests may run as root, in a container, where Chromium's own sandbox cannot be.
        for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars"):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service("/usr/bin/chromedriver"))

    def open(self, page: Path, width: int, scheme: str) -> list[dict[str, Any]]:
        """Open a page; returns what the console says."""
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        self.driver.get(page.as_uri())
        return self.driver.get_log("browser")

    def ask(self, script: str) -> Any:
        return self.driver.execute_script(script)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    found = Browser()
    yield found
    found.driver.quit()


# Of each text in a picture that is shown: what it says, how it looks, where it is in the page and in its picture.
TEXTS = """
return [...document.querySelectorAll('svg')].filter(svg => svg.getClientRects().length).flatMap(svg =>
  [...svg.querySelectorAll('text')].map(text => {
    const place = text.getBoundingClientRect(), frame = svg.getBoundingClientRect(), style = getComputedStyle(text);
    return {
      text: text.textContent, colour: style.fill, size: parseFloat(style.fontSize) * text.getScreenCTM().a,
      left: place.left - frame.left, right: frame.right - place.right,
      box: [place.left, place.top, place.right, place.bottom],
    };
  }));
"""
TABLES = """
return [...document.querySelectorAll('table')].map(table => ({
  head: [...table.tHead.rows[0].cells].map(cell => cell.innerText),
  rows: [...table.tBodies[0].rows].map(row => [...row.cells].map(cell => cell.innerText)),
}));
"""


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_it_can_be_read(width: int, scheme: str, report: Path, browser: Browser) -> None:
    assert browser.open(report, width, scheme) == []
    assert browser.ask("return performance.getEntriesByType('resource').length") == 0
    # The page itself does not scroll sideways; tables do so by themselves.
    assert browser.ask("return document.documentElement.scrollWidth") == width

    texts = browser.ask(TEXTS)
    assert len(texts) > 60
    surface = browser.ask("return getComputedStyle(document.querySelector('section')).backgroundColor")
    assert {"light": luminance(surface) > 0.8, "dark": luminance(surface) < 0.05}[scheme]
    for text in texts:
        assert text["size"] >= 9, text
        assert text["left"] > -1, text
        assert text["right"] > -1, text
        assert contrast(text["colour"], surface) >= 4.5, text
    for colour in browser.ask(
        "return [...document.querySelectorAll('h1, h2, p, td, th, dt, dd, figcaption')]"
        ".filter(element => element.getClientRects().length).map(element => getComputedStyle(element).color)"
    ):
        assert contrast(colour, surface) >= 4.5, colour


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three storage targets and four IPUs, with disks on every way between them, and fio on 64 disks."""
    nodes = {
        "targets": {f"st{number}": {"address": f"198.18.0.{number}", "port": 4420} for number in range(3)},
        "ipus": {f"ipu{number}": {"max_disks": 64} for number in range(4)},
        "hosts": {f"host{number}": {"ipu": f"ipu{number}", "access": "ssh"} for number in range(4)},
    }
    disks = [
        disk(f"vol{number:02d}", f"st{number % 3}", f"ipu{number % 4}", f"host{number % 4}", 1 + number, number)
        for number in range(48)
    ]
    jobs = [job(f"vol{number:02d}", f"st1n{number}", 1000.0 + number, (1, 2, 3, 4, 5)) for number in range(64)]
    runs = {"a": "a", "something with a long name": "a", "c": "a", "d": "a"}
    path = tmp_path_factory.mktemp("crowded") / "report.html"
    given = known(nodes=nodes, disks=disks, unlisted=[], fio=[{"runs": runs}], files={"a": json.dumps(jobs)})
    path.write_text(page.render(TEMPLATE, given), encoding="utf-8")
    return path


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("which", ["report", "crowded"])
def test_no_text_of_a_picture_is_on_another(
    which: str, width: int, request: pytest.FixtureRequest, browser: Browser
) -> None:
    assert browser.open(request.getfixturevalue(which), width, "light") == []
    texts = browser.ask(TEXTS)
    assert len(texts) > 60
    for index, one in enumerate(texts):
        for other in texts[index + 1 :]:
            assert not overlap(one["box"], other["box"]), (one, other)


def test_one_of_the_topologies_is_shown(report: Path, browser: Browser) -> None:
    for width in (400, 700, 960, 1400):
        browser.open(report, width, "light")
        shown = browser.ask(
            "return ['.wide', '.narrow'].filter(name => document.querySelector(name).getClientRects().length)"
        )
        assert shown == [".narrow" if width < 960 else ".wide"]


def test_the_numbers_are_those_of_the_results(report: Path, browser: Browser) -> None:
    browser.open(report, 1400, "light")
    disks, demo, qos, compared, drift, bench = browser.ask(TABLES)

    assert [row[0] for row in disks["rows"] if len(row) > 1] == [disk["name"] for disk in [*DISKS, *UNLISTED]]
    assert disks["rows"][0] == [
        "vol00",
        "64 MiB",
        "attached",
        "st1 namespace 1 → ipu1 virtio_blk:sma-0 → host1",
        "st1n1",
        "/dev/vdb 0000:01:00.0",
        "yes",
    ]
    assert disks["rows"][3][2:] == ["detached", "st2 namespace 2 → ipu1 → host1", "st2n2", "–", "no"]
    wrong = next(disk for disk in DISKS if not disk["converged"])
    assert [f"{wrong['name']} is not converged: {wrong['reason']}"] in disks["rows"]

    latencies = ("p50", "p95", "p99", "p99_9", "p99_99")
    for table, runs in (
        (demo, {"": DEMO["fio"]}),
        (qos, {"before": QOS_BEFORE, "limited": QOS_LIMITED, "after": QOS_AFTER}),
        (compared, {"direct": DIRECT, "virtual": VIRTUAL}),
    ):
        first = {job["name"]: job["iops"] for job in next(iter(runs.values()))}
        expected = {
            (job["name"], run): [
                job["iops"],
                job["iops"] / first[job["name"]],
                job["bw_bytes"] / 2**20,
                *(job["lat_ns"][key] / 1e6 for key in latencies),
                job["verify_errors"],
            ]
            for run, jobs in runs.items()
            for job in jobs
        }
        names = table["head"]
        columns = [name for name in names if name not in ("Job", "Disk", "Run")]
        assert len(table["rows"]) == len(expected)
        for row in table["rows"]:
            cells = dict(zip(names, row))
            wanted = expected[cells["Job"], cells.get("Run", "")]
            if "Ratio" not in names:
                del wanted[1]
            for column, number in zip(columns, wanted):
                digits = len(cells[column].partition(".")[2])
                assert cells[column] == f"{number:.{digits}f}", (cells, column)

    assert drift["head"] == ["node", "disk", "wanted", "found"]
    assert drift["rows"] == [["st1", "vol02", "attached", "no namespace"], ["ipu2", "data03", "QoS 16 MiB/s", ""]]
    assert [(row[0], float(row[1])) for row in bench["rows"]] == [
        (row["name"], row["value"]) for row in BENCH["figures"]
    ]


def test_the_numbers_in_the_charts_are_those_of_the_results(report: Path, browser: Browser) -> None:
    browser.open(report, 1400, "light")
    pictures = browser.ask(
        "return [...document.querySelectorAll('figure')].filter(figure => figure.getClientRects().length)"
        ".map(figure => [...figure.querySelectorAll('text')].map(text => text.textContent))"
    )
    topology, iops, bandwidth, latency, qos = pictures[:5]
    assert {"st1", "ipu2", "host1", "198.18.0.10", "12 disks", "1 not converged"} <= set(topology)
    jobs = DEMO["fio"]
    assert set(iops) == {job["name"] for job in jobs} | {f"{job['iops']:.0f}" for job in jobs}
    assert set(bandwidth) == {job["name"] for job in jobs} | {f"{job['bw_bytes'] / 2**20:.1f}" for job in jobs}
    medians = [sorted(job["lat_ns"]["p50"] for job in jobs)[index] for index in (1, 2)]
    assert f"{sum(medians) / 2e6:.2f}" in latency
    assert {"before", "limited", "after", "9821", "4094", "9791"} <= set(qos)
    assert browser.ask("return document.body.innerText").count("limited: 0.42 times the IOPS of before") == 1
    phases = pictures[-1]
    seconds = {name: number for name, number in DEMO["seconds"].items() if name != "total"}
    assert set(phases) == set(seconds) | {f"{number:.1f} s" for number in seconds.values()}
    assert f"{DEMO['seconds']['total']:.1f} s in all" in browser.ask("return document.body.innerText")


def test_bars_are_as_long_as_their_numbers(report: Path, browser: Browser) -> None:
    browser.open(report, 1400, "light")
    widths = browser.ask(
        "const shown = [...document.querySelectorAll('figure')].filter(figure => figure.getClientRects().length);"
        "const bars = [...shown[1].querySelectorAll('path[style*=\"--series-1\"]')];"
        "return bars.map(bar => bar.getBoundingClientRect().width)"
    )
    numbers = [job["iops"] for job in DEMO["fio"]]
    assert [width / max(widths) for width in widths] == pytest.approx(
        [number / max(numbers) for number in numbers], rel=0.01
    )


def test_the_console_would_say_what_is_wrong(tmp_path: Path, report: Path, browser: Browser) -> None:
    """So that an empty one means something: a page with a script and an image, which its policy forbids."""
    page = tmp_path / "page.html"
    text = report.read_text(encoding="utf-8")
    page.write_text(text.replace("</body>", "<script>document.title = 'ran'</script><img src='x.png'></body>"))
    assert len(browser.open(page, 1400, "light")) == 2
    assert browser.driver.title != "ran"


def test_a_file_that_is_not_there_is_refused(results: Path, variables: dict[str, Any]) -> None:
    lost = str(results / "lost.json")
    given = {**variables, "report_fio": [{"title": "QoS", "runs": {"before": lost}}]}
    output = playbook(results, "playbooks/report.yml", given, check=False)
    assert f"{lost}: wanted a file of results on this machine" in " ".join(output.split())


def test_a_file_that_is_something_else_is_refused(results: Path, variables: dict[str, Any]) -> None:
    output = playbook(results, "playbooks/report.yml", {**variables, "report_demo": str(results / "drift.json")}, False)
    assert re.search(r"report_demo \(.*drift.json\): wanted the dictionary that playbooks/demo.yml writes", output)


def test_the_playbook_asks_the_nodes_and_says_who_is_silent(tmp_path: Path) -> None:
    """A storage target and an IPU that run, one of each that does not, and a host that cannot be reached."""
    directories = [tmp_path / node / "spdk" for node in ("st1", "ipu2")]
    for directory in directories:
        directory.mkdir(parents=True)
    disks = [
        {"name": "vol00", "size": "1MiB", "backing": {"type": "malloc"}, "target": "st1", "host": "host2"},
        {"name": "vol01", "size": "1MiB", "backing": {"type": "malloc"}, "target": "st2", "host": "host2"},
    ]
    with Emulator(directories[0]) as target, Emulator(directories[1]):
        target.call("nvmf_create_transport", trtype="TCP")
        playbook(
            tmp_path,
            "playbooks/report.yml",
            {
                "ipdk_run_dir": str(tmp_path),
                "ipdk_state_dir": str(tmp_path),
                "report_look": True,
                "report_output": str(tmp_path / "report.html"),
                "report_demo": "",
                "virtual_disks": disks,
            },
        )
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Did not answer, so what is there is unknown: host1, ipu1, st2" in text
    assert re.search(r"vol00</th>\s*<td[^>]*>1 MiB</td>\s*<td>not attached, to attach</td>", text)
    assert re.search(r"vol01 is not converged: the state of the storage target st2 is unknown", text)


def luminance(colour: str) -> float:
    """WCAG 2: relative luminance of an rgb() colour."""
    channels = [int(number) / 255 for number in re.findall(r"\d+", colour)[:3]]
    linear = [channel / 12.92 if channel <= 0.04045 else ((channel + 0.055) / 1.055) ** 2.4 for channel in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def overlap(one: list[float], other: list[float]) -> bool:
    """Whether two boxes (left, top, right, bottom) share more than a pixel and the room above and below letters."""
    across = min(one[2], other[2]) - max(one[0], other[0])
    down = min(one[3], other[3]) - max(one[1], other[1])
    return across > 1 and down > 4

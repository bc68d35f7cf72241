"""The report's page, from results: what is shown, what is refused, and that nothing of it is taken for HTML."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.ipdk.storage.plugins.filter import report
from ansible_collections.ipdk.storage.plugins.plugin_utils import charts, measurements, page, topology
from samples import BENCH, DEMO, DISKS, NODES, QOS_BEFORE, QOS_LIMITED, TEMPLATE, UNLISTED, disk, everything, job, known

LOADED = "import sys, ansible_collections.ipdk.storage.plugins.filter.report; print('matplotlib' in sys.modules)"
EVIL = "<script>alert(1)</script>\"'&{{ 7 * 7 }}$x^2$</svg><img src=x onerror=alert(2)>"


class Page(HTMLParser):
    """Elements with their attributes, and the text of each."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def render(given: dict[str, Any]) -> Page:
    return Page(page.render(TEMPLATE, given))


def test_the_same_results_make_the_same_page() -> None:
    assert page.render(TEMPLATE, everything()) == page.render(TEMPLATE, everything())


def test_nothing_is_loaded_and_nothing_runs() -> None:
    text = page.render(TEMPLATE, everything())
    found = Page(text)
    assert not {"script", "link", "img", "iframe", "image", "object"} & {tag for tag, _attributes in found.elements}
    # Namespaces are names, no addresses.
    assert set(re.findall(r"https?://[^\"' <]+", text)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    for _tag, attributes in found.elements:
        assert not [key for key in attributes if key.startswith("on") or key in ("src", "srcset")]
        for key in ("href", "xlink:href"):
            assert (attributes.get(key) or "#").startswith("#")
    assert "url(" not in re.sub(r"url\(#[\w-]+\)", "", text)


def test_identifiers_are_unique_and_all_that_is_referred_to_is_there() -> None:
    text = page.render(TEMPLATE, everything())
    found = Page(text)
    ids = [str(attributes["id"]) for _tag, attributes in found.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    wanted = re.findall(r'(?:href="|url\()#([\w-]+)', text)
    wanted += [
        str(attributes["aria-labelledby"]) for _tag, attributes in found.elements if "aria-labelledby" in attributes
    ]
    assert len(wanted) > 20
    assert set(wanted) <= set(ids)


def test_every_picture_has_words_and_text_that_is_text() -> None:
    found = render(everything())
    pictures = found.of("svg")
    assert len(pictures) == 2 + 3 * 3 + 1
    assert all(picture["role"] == "img" and len(str(picture["aria-label"])) > 20 for picture in pictures)
    assert len(found.of("text")) > 100


def test_the_colours_are_those_of_the_style_sheet() -> None:
    text = page.render(TEMPLATE, everything())
    style = text[text.index("<style>") : text.index("</style>")]
    light, dark = style.split("@media (prefers-color-scheme: dark)")
    names = set(re.findall(r"var\(--([\w-]+)\)", text))
    assert names >= {"series-1", "series-2", "series-3", "ink", "muted", "line", "surface", "bad"}
    assert all(f"--{name}:" in light and f"--{name}:" in dark for name in names)
    drawings = text[text.index("</style>") :]
    assert not re.search(r"#[0-9a-f]{6}\b", drawings)


@pytest.mark.parametrize("key", ["name", "disk", "error"])
def test_a_job_is_escaped(key: str) -> None:
    jobs = [job("ok", "st1n1", 1.0, (1.0,)), {**job("check", "st1n1", 1.0, (1.0,)), key: EVIL}]
    given = known(fio=[{"title": EVIL, "runs": {EVIL: "a", "b": "b"}}], files={"a": json.dumps(jobs), "b": "[]"})
    _is_harmless(page.render(TEMPLATE, given))


def _is_harmless(text: str) -> None:
    found = Page(text)
    assert not {"script", "img"} & {tag for tag, _attributes in found.elements}
    assert EVIL in "".join(found.text)
    assert not [key for _tag, attributes in found.elements for key in attributes if key.startswith("on")]


def test_everything_else_is_escaped() -> None:
    nodes = {
        "targets": {EVIL: {"address": EVIL, "port": None}},
        "ipus": {EVIL: {"max_disks": None}},
        "hosts": {EVIL: {"ipu": EVIL, "access": "ssh"}},
    }
    disks = [disk(EVIL, EVIL, EVIL, EVIL, 1, 0, device=EVIL, serial=EVIL, handle=EVIL, converged=False, reason=EVIL)]
    demo = {**DEMO, "engine": EVIL, "accelerator": EVIL, "seconds": {EVIL: 1.0}}
    bench = {"figures": [{"name": EVIL, "value": 1, "unit": EVIL, "how": EVIL}]}
    given = known(
        title=EVIL,
        date=EVIL,
        nodes=nodes,
        disks=disks,
        unlisted=[{**UNLISTED[0], "name": EVIL}],
        silent=[EVIL],
        demo=EVIL,
        bench="b",
        drift=[{EVIL: EVIL}],
        files={EVIL: json.dumps(demo), "b": json.dumps(bench)},
    )
    _is_harmless(page.render(TEMPLATE, given))


def test_a_name_with_characters_that_xml_has_not_is_drawn() -> None:
    jobs = [job("a\x00b\x1b", "st1\x08", 1.0, (1.0,))]
    render(known(fio=[{"runs": {"a\x07": "a"}}], files={"a": json.dumps(jobs)}))


def test_silent_nodes_are_in_order() -> None:
    pages = [page.render(TEMPLATE, known(silent=names)) for names in (["st2", "ipu1"], ["ipu1", "st2"])]
    assert pages[0] == pages[1]


def test_with_nothing_but_an_inventory_it_says_what_is_missing() -> None:
    text = page.render(TEMPLATE, known(silent=["st2"]))
    assert "Did not answer, so what is there is unknown: st2" in text
    for name in ("report_look", "report_fio", "report_demo", "report_bench", "report_drift"):
        assert name in text[text.index("Not in this report") :]
    assert "Virtual disks</h2>" not in text


def test_an_inventory_without_nodes_has_no_topology() -> None:
    text = page.render(TEMPLATE, known(nodes={"targets": {}, "ipus": {}, "hosts": {}}))
    assert "Topology" not in text


def test_no_disks_are_said_to_be_none() -> None:
    text = page.render(TEMPLATE, known(disks=[], unlisted=[]))
    assert "There are none" in text


def test_drift_is_shown_as_sentences_too_and_none_is_an_answer() -> None:
    assert "vol00 is gone" in page.render(TEMPLATE, known(drift=["vol00 is gone"]))
    none = page.render(TEMPLATE, known(drift=[]))
    assert "everything is as it was declared" in none
    assert "report_drift" not in none


def test_many_jobs_are_cut_in_charts_and_not_in_the_table() -> None:
    jobs = [job(f"job{number:02d}", f"st1n{number}", 100.0 + number, (1.0, 2.0)) for number in range(64)]
    found = render(known(fio=[{"runs": {"": "a"}}], files={"a": json.dumps(jobs)}))
    text = "".join(found.text)
    assert "show 16 of 64 jobs" in text
    assert all(f"st1n{number}" in text for number in range(64))


def test_a_job_that_one_run_lacks_is_said_to_be_missing() -> None:
    files = {"a": json.dumps(QOS_BEFORE), "b": json.dumps(QOS_LIMITED[:1])}
    view = page.view(known(fio=[{"title": "QoS", "runs": {"before": "a", "limited": "b"}}], files=files))
    rows = {(row["job"], row["run"]): row for row in view["fio"][0]["rows"]}
    assert rows["vol01", "limited"]["numbers"] is None
    assert rows["vol00", "limited"]["ratio"] == f"{4093.7 / 9821.4:.2f}"
    assert "not in this run" in page.render(
        TEMPLATE, known(fio=[{"title": "QoS", "runs": {"before": "a", "limited": "b"}}], files=files)
    )


def test_jobs_of_one_name_on_two_hosts_are_all_shown() -> None:
    jobs = [job("check", f"st{number}n1", 10.0 * number, (1.0,)) for number in (1, 2, 3)]
    view = page.view(known(fio=[{"runs": {"": "a"}}], files={"a": json.dumps(jobs)}))
    assert [(row["job"], row["numbers"][0]) for row in view["fio"][0]["rows"]] == [
        ("check", "10"),
        ("check (2)", "20"),
        ("check (3)", "30"),
    ]


def test_a_failed_job_says_why() -> None:
    jobs = [{**job("check", "st1n1", 10.0, (1.0,)), "verify_errors": 3, "error": "3 blocks were not what was written"}]
    text = page.render(TEMPLATE, known(fio=[{"runs": {"": "a"}}], files={"a": json.dumps(jobs)}))
    assert "check: 3 blocks were not what was written" in text


def test_a_job_that_did_no_io_and_one_without_percentiles_are_shown() -> None:
    idle = {**job("idle", "st1n1", 0.0, ()), "error": "no I/O was done"}
    files = {"a": json.dumps([idle]), "b": json.dumps([job("idle", "st1n1", 5.0, ())])}
    view = page.view(known(fio=[{"runs": {"a": "a", "b": "b"}}], files=files))
    assert [row["ratio"] for row in view["fio"][0]["rows"]] == ["–", "–"]
    assert [picture["title"] for picture in view["fio"][0]["pictures"]] == ["IOPS", "Bandwidth, MiB/s"]


# the topology


@pytest.mark.parametrize(
    ("more", "attached", "state"),
    [
        ({}, True, "attached"),
        ({"visible": None}, True, "attached"),
        ({"visible": None, "action": "grow"}, True, "attached, to grow"),
        ({"visible": False, "action": "attach"}, False, "not attached, to attach"),
        ({"visible": None, "action": "attach"}, False, "not attached, to attach"),
        ({"visible": False, "state": "detached"}, False, "detached"),
        ({"visible": None, "state": "detached"}, False, "detached"),
        ({"visible": True, "state": "detached", "action": "detach"}, True, "attached, to detach"),
        ({"visible": None, "state": "absent", "action": "destroy"}, True, "attached, to destroy"),
        ({"visible": False, "state": "absent"}, False, "absent"),
        ({"visible": None, "converged": False}, None, "unknown"),
        ({"visible": True, "converged": False}, True, "attached"),
    ],
)
def test_the_state_shown_is_the_real_one(more: dict[str, Any], attached: bool | None, state: str) -> None:
    """virtual_disks_result says what is wanted, and what is still to be done."""
    one = disk("vol00", "st1", "ipu1", "host1", 1, 0, **more)
    assert topology.is_attached(one) is attached
    assert page.view(known(disks=[one], unlisted=[]))["disks"][0]["state"] == state


def test_disks_are_on_the_ways_that_they_go() -> None:
    network = topology.network(NODES, DISKS, UNLISTED)
    ways = {(start.name, end.name): topology.label(disks) for (start, end), disks in network.ways.items()}
    assert ways == {
        ("ipu1", "host1"): ["3 disks"],
        ("ipu2", "host2"): ["12 disks", "1 not converged"],
        ("st1", "ipu1"): ["2 disks"],
        ("st2", "ipu1"): ["1 disk", "1 detached"],
        ("st1", "ipu2"): ["12 disks"],
        ("st2", "ipu2"): ["1 not converged"],
    }
    shown = {node.name: detail for node, detail in network.nodes.items()}
    assert shown["ipu1"] == "3 of 64 disks"
    assert (shown["host1"], shown["host2"]) == ("sees 3 disks", "nobody looks")


def test_names_are_on_a_way_where_there_is_room() -> None:
    disks = [disk(f"vol{number:02d}", "st1", "ipu1", "host1", number, number) for number in range(64)]
    assert topology.label(disks[:3], names=True) == ["vol00, vol01, vol02"]
    assert topology.label(disks, names=True) == ["64 disks"]
    assert topology.label(disks[:3]) == ["3 disks"]


@pytest.mark.parametrize("wide", [True, False])
def test_a_large_lab_is_drawn_within_its_picture(wide: bool) -> None:
    nodes = {
        "targets": {f"st{n}": {"address": f"198.18.0.{n}", "port": 4420} for n in range(10)},
        "ipus": {f"ipu{n}": {"max_disks": 64} for n in range(7)},
        "hosts": {f"host{n}": {"ipu": f"ipu{n}", "access": "ssh"} for n in range(7)},
    }
    svg = topology.picture("large", topology.network(nodes, [], []), wide)
    width, height = map(float, re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)[0])
    places = [(float(text["x"]), float(text["y"])) for text in Page(svg).of("text")]
    assert len(places) == 24 * 3
    assert all(0 < x < width and 0 < y < height for x, y in places)


# what is refused


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"demo": "d", "files": {"d": "{"}}, r"report_demo \(d\): wanted JSON: "),
        (
            {"demo": "d", "files": {"d": "[]"}},
            r"report_demo \(d\): wanted the dictionary that playbooks/demo.yml writes",
        ),
        ({"demo": "d", "files": {"d": "{}"}}, r"report_demo \(d\): seconds: wanted a dictionary, got nothing"),
        (
            {"demo": "d", "files": {"d": json.dumps({**DEMO, "disks_visible": "64"})}},
            r"report_demo \(d\): disks_visible: wanted a number, got '64'",
        ),
        ({"bench": "b", "files": {"b": "[]"}}, r"report_bench \(b\): wanted a dictionary with figures"),
        (
            {"bench": "b", "files": {"b": '{"figures": [{"name": "x", "value": null}]}'}},
            r"report_bench \(b\): figures\[0\]: value: wanted a number, got None",
        ),
        ({"drift": "d", "files": {"d": "{}"}}, r"report_drift \(d\): wanted a list of sentences or of dictionaries"),
        ({"drift": ["a", {}]}, "report_drift: wanted sentences or dictionaries, got both"),
        ({"fio": {}}, "report_fio: wanted a list of dictionaries with title and runs, got a dictionary"),
        ({"fio": [{"title": "x"}]}, r"report_fio\[0\]: wanted a dictionary with title and runs"),
        (
            {"fio": [{"runs": {"a": "a"}, "titel": "x"}]},
            r"report_fio\[0\]: unknown key 'titel'; there are: title, runs",
        ),
        ({"fio": [{"runs": dict.fromkeys("abcde", "a")}]}, r"report_fio\[0\]: runs: wanted 4 at most, got 5"),
        (
            {"fio": [{"runs": {"before": "a"}}], "files": {"a": json.dumps(DEMO)}},
            r"report_fio\[0\].runs.before \(a\): wanted the list of jobs that playbooks/fio.yml writes .* a dictionary",
        ),
        (
            {"fio": [{"runs": {"x": "a"}}], "files": {"a": '[{"name": "j", "disk": "d", "lat_ns": {}}]'}},
            r"runs.x \(a\): \[0\]: iops: wanted a number, got None",
        ),
        (
            {"fio": [{"runs": {"x": "a"}}], "files": {"a": '[{"name": "j", "disk": "d", "lat_ns": {}, "iops": -1}]'}},
            "iops: wanted a number, got -1",
        ),
        (
            {"fio": [{"runs": {"x": "a"}}], "files": {"a": '[{"name": "j", "disk": "d", "lat_ns": {}, "iops": NaN}]'}},
            "iops: wanted a number, got nan",
        ),
        (
            {"fio": [{"runs": {"x": "a"}}], "files": {"a": '[{"name": "j"}]'}},
            "lat_ns: wanted a dictionary, got nothing",
        ),
    ],
)
def test_bad_results_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(measurements.InvalidReport, match=message):
        page.view(known(**given))
    with pytest.raises(AnsibleFilterError, match=message):
        report.report_page(known(**given), TEMPLATE)


def test_without_matplotlib_the_filter_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(charts, "MISSING", ImportError("No module named 'matplotlib'"))
    with pytest.raises(AnsibleFilterError, match="needs Matplotlib .* No module named 'matplotlib'.*requirements.txt"):
        report.report_page(known(), TEMPLATE)


def test_the_figures_of_bench_keep_their_digits() -> None:
    view = page.view(known(bench="b", files={"b": json.dumps(BENCH)}))
    assert [row["value"] for row in view["figures"]] == ["1.214", "6", "61.3"]


def test_finding_a_filter_loads_no_matplotlib() -> None:
    """Each task that uses any filter of the collection reads this file."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.check_output([sys.executable, "-c", LOADED], env=environment, text=True) == "False\n"

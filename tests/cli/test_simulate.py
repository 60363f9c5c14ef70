"""`llmux simulate`, as typed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from llmux.cli.commands import app
from llmux.core import CoreSettings, ModelSpec
from llmux.costs import SwitchCostTracker
from llmux.eventlog import Recorder
from llmux.policy import load_policy
from llmux.report import study
from llmux.sim import Arrival, BackendModel, HookTimes, poisson
from llmux.sim import simulate as simulate_once
from llmux.state import CostStore

TRACE = "arrival_s,model,prompt_tokens,output_tokens\n" + "".join(
    f"{7 * number},{'abc'[number % 3]},100,{40 * (number % 5)}\n" for number in range(60)
)
MODEL = "port: 1, wake: 'true', sleep: 'true', alive: 'true'"
SMALL = ("--generate", "poisson", "--models", "2", "--seconds", "600", "--no-bound")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["simulate", *map(str, arguments)])


def run_json(*arguments: object) -> dict[str, Any]:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    data = json.loads(result.stdout)
    assert isinstance(data, dict)
    return data


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "trace.csv"
    path.write_text(TRACE)
    return path


def test_one_table_with_every_policy_and_model(trace: Path) -> None:
    result = run(trace, "--cost", 5)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    heads = "policy requests sw/1000 switch drain serve idle mean p50 p95 p99 max ≤60 s unfin. /bound"
    assert [line.split() for line in lines if "sw/1000" in line] == [heads.split()]
    first = [line.split()[0] for line in lines if line.split()]
    for policy in ("break-even", "fifo", "drain-first", "priority", "round-robin"):
        assert first.count(policy) >= 1
    assert first.count("a") == first.count("b") == first.count("c") == 5
    assert "mean wait" in lines[-1] or "little traffic" in lines[-1]
    assert all(line == line.rstrip() or len(line) < 250 for line in lines)


def test_the_numbers_add_up(trace: Path) -> None:
    data = run_json(trace, "--cost", 5, "--limit", 8)
    assert data["limit_secs"] == 8
    assert data["mean_wait_bound_secs"] > 0
    for policy in data["policies"]:
        models = policy["models"].values()
        assert policy["requests"] == 60 == sum(model["requests"] for model in models)
        assert sum(policy["shares"].values()) == pytest.approx(1)
        assert policy["waits"]["longest"] == max(model["waits"]["longest"] for model in models)
        assert policy["waits"]["mean"] == pytest.approx(
            sum(model["waits"]["mean"] * model["waits"]["count"] for model in models) / 60
        )
        assert policy["goodput"] == pytest.approx(sum(model["goodput"] * model["requests"] for model in models) / 60)
        assert policy["ratio_to_bound"] == pytest.approx(policy["waits"]["mean"] / data["mean_wait_bound_secs"])
        assert policy["ratio_to_bound"] >= 1
        assert (policy["unfinished"], policy["faults"]) == (0, [])
    assert data["recommendation"]["in_use"] == "break-even"
    assert data["recommendation"]["text"]


@pytest.mark.parametrize("kind", ["poisson", "bursty", "zipf", "daily"])
def test_generated_traffic(kind: str) -> None:
    options = ("--generate", kind, "--models", 3, "--rate", 2, "--seconds", 500, "--no-bound", "--policy", "fifo")
    policy = run_json(*options)["policies"][0]
    assert policy["requests"] == pytest.approx(1000, rel=0.5)
    requests = [model["requests"] for model in policy["models"].values()]
    assert len(requests) == 3
    if kind == "zipf":
        assert requests[0] > requests[1] > requests[2]
    assert policy["requests"] != run_json(*options, "--seed", 2)["policies"][0]["requests"]


def test_the_same_again_whatever_the_number_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    command = [sys.executable, "-m", "llmux", "simulate", "--generate", "bursty", "--rate", "2", "--seeds", "2"]
    command += ["--noise", "0.2", "--json", "--policy", "fifo", "--policy", "break-even"]
    big = [*command, "--seconds", "3000"]  # enough for processes of their own
    first = subprocess.run(big, check=True, capture_output=True, text=True)
    assert first.stderr == ""
    monkeypatch.setattr(study, "_WORTH_PROCESSES", 10**9)
    for _ in range(2):
        assert run(*big[4:]).stdout == first.stdout


def test_several_seeds_are_pooled() -> None:
    one, two = (run_json(*SMALL, "--seed", seed, "--policy", "fifo")["policies"][0] for seed in (5, 6))
    both = run_json(*SMALL, "--seed", 5, "--seeds", 2, "--policy", "fifo")
    assert both["seeds"] == [5, 6]
    (policy,) = both["policies"]
    assert policy["requests"] == one["requests"] + two["requests"]
    assert policy["waits"]["longest"] == max(one["waits"]["longest"], two["waits"]["longest"])


def test_noise_has_a_bound_that_is_said_to_be_rough() -> None:
    options = (*SMALL[:-1], "--policy", "fifo")
    result = run(*options, "--noise", 0.3)
    assert result.exit_code == 0
    assert re.search(r"/bound: how many times [\d.]+ s, .* always take their mean time; .* about that\.", result.stdout)
    noisy, exact = run_json(*options, "--noise", 0.3), run_json(*options)
    assert noisy["mean_wait_bound_secs"] == exact["mean_wait_bound_secs"] > 0
    assert (noisy["bound_is_approximate"], exact["bound_is_approximate"]) == (True, False)
    assert noisy["policies"][0]["ratio_to_bound"] > 1


# --- configurations and costs ------------------------------------------------------------------------------------


def test_a_configuration_gives_models_devices_aliases_and_the_policy_in_use(trace: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        f"""
models:
  a: {{{MODEL}, needs: 1GiB}}
  b: {{{MODEL}, needs: 1GiB}}
  long: {{{MODEL}, needs: 1GiB, aliases: [c]}}
devices: {{gpu: 3GiB}}
policy: {{name: round-robin, quantum: 3, min_active_secs: 4}}
"""
    )
    data = run_json(trace, "-c", config, "--cost", 5)
    labels = [policy["label"] for policy in data["policies"]]
    assert labels == ["round-robin:quantum=3.0", "break-even", "drain-first", "fifo", "priority"]
    assert data["recommendation"]["in_use"] == "round-robin:quantum=3.0"
    for policy in data["policies"]:
        assert set(policy["models"]) == {"a", "b", "long"}
        assert policy["switches_per_1000"] == 1000 * 3 / 60  # they fit together: nobody is switched away
        assert policy["min_active_secs"] == 4


def test_costs_that_llmux_has_measured_are_used(trace: Path, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(
        "models:\n" + "".join(f"  {name}: {{{MODEL}}}\n" for name in "abc") + "state_dir: state\n"
    )
    options = (trace, "-c", tmp_path / "config.yaml", "--policy", "fifo", "--no-bound")
    unmeasured = run_json(*options)["policies"][0]["waits"]["mean"]
    assert unmeasured == run_json(*options, "--cost", 10)["policies"][0]["waits"]["mean"]
    (tmp_path / "state").mkdir()
    tracker = SwitchCostTracker()
    for one in "abc":
        tracker.record_sleep(one, 0.1)
        tracker.record_wake(one, 0.9)
        for other in "abc":
            if one != other:
                tracker.record(one, other, 1.0)
    CostStore(tmp_path / "state").save(tracker.learned())
    result = run(*options)
    assert "switch costs as measured by llmux" in result.stdout
    measured = run_json(*options)["policies"][0]["waits"]["mean"]
    assert measured < unmeasured / 2
    assert measured == pytest.approx(run_json(*options, "--cost", 1)["policies"][0]["waits"]["mean"], rel=0.02)
    assert "switches of 10 s" in run(*options, "--cost", 10).stdout


def test_models_alone_are_poisson_traffic_and_agree_with_a_trace(trace: Path) -> None:
    small = ("--models", 2, "--seconds", 600, "--no-bound", "--policy", "fifo", "--cost", 10)
    assert run_json(*small) == run_json("--generate", "poisson", *small)
    assert run(trace, "--models", 3, "--policy", "fifo", "--no-bound").exit_code == 0
    result = run(trace, "--models", 2)
    assert result.exit_code == 2
    assert re.search(r"--models 2: .*trace.csv has 3: a, b, c", result.stderr)


def test_costs_per_pair(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("model,arrival_s,prompt_tokens,output_tokens\na,0,0,0\nb,100,0,0\na,200,0,0\n")
    costs = tmp_path / "costs.csv"
    costs.write_text("from,to,seconds\na,b,30\nb,a,10\n,a,4\n")
    options = (trace, "--costs", costs, "--policy", "fifo")
    waits = run_json(*options)["policies"][0]["models"]
    assert waits["b"]["waits"]["mean"] == pytest.approx(30)
    assert waits["a"]["waits"]["longest"] == pytest.approx(10)
    assert waits["a"]["waits"]["mean"] == pytest.approx(7)
    costs.write_text("from,to,seconds\na,b,30\n")
    result = run(*options)
    assert result.exit_code == 2
    assert f"{costs}: there is no line for b to a" in result.stderr
    waits = run_json(*options, "--cost", 20)["policies"][0]["models"]
    assert waits["b"]["waits"]["mean"] == pytest.approx(30)
    assert waits["a"]["waits"]["mean"] == pytest.approx((16 + 20) / 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: the header must be from,to,seconds"),
        ("from,to,seconds\na,b\n", "line 2: there must be three values"),
        ("from,to,seconds\na,b,1\nb,x,1\n", "line 3: there is no model 'x'"),
        ("from,to,seconds\na,,1\n", "line 2: there is no model ''"),
        ("from,to,seconds\na,b,long\n", "line 2: could not convert"),
        ("from,to,seconds\na,b,-1\n", "line 2: seconds must be at least 0"),
        ("from,to,seconds\na,b,nan\n", "line 2: seconds must be at least 0"),
        ("from,to,seconds\na,b,1\na,b,2\n", "line 3: given twice"),
        ("from,to,seconds\na,a,1\n", "line 2: from and to are the same"),
    ],
)
def test_costs_that_cannot_be_read(text: str, message: str, trace: Path, tmp_path: Path) -> None:
    costs = tmp_path / "costs.csv"
    costs.write_text(text)
    result = run(trace, "--costs", costs)
    assert result.exit_code == 2
    assert f"{costs}: {message}" in result.stderr


def test_a_faster_backend_drains_faster(trace: Path) -> None:
    slow, fast = (
        run_json(trace, "--policy", "fifo", "--cost", 1, "--no-bound", "--backend", f"rate={rate},batch=4")["policies"][
            0
        ]
        for rate in (10, 1000)
    )
    assert slow["shares"]["draining"] > fast["shares"]["draining"]


# --- policies and sweeps -----------------------------------------------------------------------------------------


def test_options_of_policies_and_sweeps(trace: Path) -> None:
    data = run_json(
        trace,
        *("--policy", "fifo", "--policy", "break-even:linger=0", "--policy", "priority:levels.a=2,ageing_secs=5"),
        *("--sweep", "policy.max_wait_secs=10,30", "--sweep", "break-even.patience=1,2"),
        *("--sweep", "priority.levels.b=3"),
    )
    got = {policy["label"]: policy["options"] for policy in data["policies"]}
    assert got == {
        "fifo": {},
        **{
            f"break-even:linger=0 max_wait_secs={wait} patience={patience}": {
                "linger": 0,
                "max_wait_secs": wait,
                "patience": patience,
            }
            for wait in (10, 30)
            for patience in (1, 2)
        },
        **{
            f"priority:levels.a=2,ageing_secs=5 max_wait_secs={wait} levels.b=3": {
                "levels": {"a": 2, "b": 3},
                "ageing_secs": 5,
                "max_wait_secs": wait,
            }
            for wait in (10, 30)
        },
    }


def test_what_the_core_decides_can_be_swept_too(trace: Path) -> None:
    data = run_json(trace, "--policy", "break-even", "--sweep", "policy.min_active_secs=0,25")
    labels = {policy["label"]: policy for policy in data["policies"]}
    assert labels["break-even min_active_secs=25"]["min_active_secs"] == 25
    assert (
        labels["break-even min_active_secs=25"]["waits"]["mean"]
        > labels["break-even min_active_secs=0"]["waits"]["mean"]
    )
    assert data["recommendation"]["in_use"] == "break-even min_active_secs=0"


def test_unserved_requests_are_not_hidden(trace: Path) -> None:
    data = run_json(trace, "--cost", 30, "--policy", "fifo:request_timeout_secs=5", "--policy", "fifo")
    refused, served = data["policies"]
    assert refused["unfinished"] > 0
    assert refused["ratio_to_bound"] is None
    assert served["ratio_to_bound"] >= 1
    assert data["recommendation"]["score"] == "late"


def test_a_policy_that_fails_is_reported(trace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_policy.py").write_text(
        "class Broken:\n    name = 'broken'\n    def decide(self, view, now):\n        raise KeyError('oops')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    result = run(trace, "--policy", "broken_policy:Broken", "--policy", "fifo")
    assert result.exit_code == 0
    assert re.search(r"broken_policy:Broken failed, and fifo decided .* KeyError: 'oops'", result.stdout)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_policy_that_never_lets_time_pass_is_reported(
    processes: int, trace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"hasty{processes}.py").write_text(
        "from llmux.policy import Stay\n"
        "class Hasty:\n    name = 'hasty'\n    def decide(self, view, now):\n        return Stay(now)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    if processes == 2:
        monkeypatch.setattr(study, "_WORTH_PROCESSES", 0)
    result = run(trace, "--policy", f"hasty{processes}:Hasty", "--policy", "fifo")
    assert result.exit_code == 0, result.output
    assert re.search(r"Hasty failed, and fifo decided instead, .* at 0 s: .* later than now", result.stdout)


@pytest.mark.parametrize("text", ["def f(:\n", "class P(Nothing):\n    pass\n", "import sys\nsys.exit(4)\n"])
def test_a_policy_whose_module_is_broken_is_a_message(
    text: str, trace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"module{abs(hash(text))}"
    (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    result = run(trace, "--policy", f"{name}:P")
    assert result.exit_code == 2
    assert re.match(rf"llmux: policy '{name}:P' cannot be imported: (Syntax|Name|System)E", result.stderr)


def test_a_policy_that_lets_people_starve_is_reported(
    trace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "idler.py").write_text(
        "from llmux.policy import Stay\n"
        "class Idler:\n    name = 'idler'\n    def decide(self, view, now):\n        return Stay()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    result = run(trace, "--policy", "idler:Idler", "--policy", "fifo")
    assert result.exit_code == 0, result.output
    assert result.stdout.count("kept somebody waiting") == 1
    assert (
        "idler:Idler kept somebody waiting for no reason that llmux knows of: at 900 s, for a, 900 s." in result.stdout
    )
    data = run_json(trace, "--policy", "idler:Idler", "--policy", "fifo")
    assert [len(policy["starved"]) for policy in data["policies"]] == [1, 0]


def test_backends_of_a_log_are_fitted_said_and_overridden(tmp_path: Path) -> None:
    settings = CoreSettings(models=tuple(map(ModelSpec, "abc")), alive_interval=0)
    arrivals = poisson({"a": 0.1, "b": 0.1, "c": 0.002}, 20_000.0, 1)
    path = tmp_path / "events.jsonl"
    recorder = Recorder(path, settings, "fifo", {})
    recorder.start()
    hooks, backends = HookTimes.constant("abc", 5.0), BackendModel(batched_rate=10.0)
    simulate_once(arrivals, settings, load_policy("fifo"), hooks=hooks, backends=backends, watch=recorder)
    recorder.close()
    result = run("--from-log", path, "--policy", "fifo", "--no-bound")
    assert result.exit_code == 0, result.output
    assert re.search(
        r"^a, b: fitted to [\d,]+ requests of the log, up to \d+ at a time: each that runs beside another takes it "
        r"[12]\d\.\d% of its time alone \(95% interval: [\d.]+% to [\d.]+%\); no limit of the batch seen\.$",
        result.stdout,
        re.MULTILINE,
    )
    assert "c: requests take as long as they did, as the log does not tell" in result.stdout
    own = run_json("--from-log", path, "--policy", "fifo", "--no-bound")
    assert own["fits"].keys() == {"a", "b"}
    assert len(own["notes"]) == 2
    faster, slower = (
        run_json(
            "--from-log", path, "--policy", "fifo", "--no-bound", "--backend", f"rate=40,batched_rate={rate},batch=16"
        )
        for rate in (40, 5)
    )
    means = [data["policies"][0]["waits"]["mean"] for data in (faster, own, slower)]
    assert means == sorted(means)
    assert means[2] > 1.2 * means[0]
    assert run("--from-log", path, "--backend", "rate=40").exit_code == 2
    assert run("--from-log", path, "--backend", "overhead=1").exit_code == 2


def test_seeds_that_would_be_alike(trace: Path) -> None:
    result = run(trace, "--seeds", 3)
    assert result.exit_code == 2
    assert "--seeds above 1 are all alike" in result.stderr
    assert run(trace, "--seeds", 3, "--noise", 0.1, "--policy", "fifo").exit_code == 0


# --- event logs --------------------------------------------------------------------------------------------------


def test_an_event_log(tmp_path: Path) -> None:
    settings = CoreSettings(models=tuple(map(ModelSpec, "ab")), alive_interval=0)
    arrivals = [Arrival(7.0 * number, "ab"[number % 2], 0, 40) for number in range(40)]
    path = tmp_path / "events.jsonl"
    recorder = Recorder(path, settings, "round-robin", {"quantum": 3.0})
    recorder.start()
    result = simulate_once(
        arrivals,
        settings,
        load_policy("round-robin", {"quantum": 3.0}),
        hooks=HookTimes.constant("ab", 5.0),
        backends=BackendModel(overhead=0),
        watch=recorder,
    )
    recorder.close()
    data = run_json("--from-log", path)
    own = data["policies"][0]
    assert own["label"] == data["recommendation"]["in_use"] == "round-robin:quantum=3.0"
    assert own["waits"]["mean"] == pytest.approx(result.summary().waits.mean, rel=0.05)
    assert {policy["policy"] for policy in data["policies"]} >= {"fifo", "break-even"}
    assert run_json("--from-log", path, "--cost", 50)["policies"][0]["waits"]["mean"] > own["waits"]["mean"]
    for extra in (["-c", "config.yaml"], ["--backend", "rate=1"]):
        assert run("--from-log", path, *extra).exit_code == 2
    result_of_trace = run("--from-log", tmp_path / "none.jsonl")
    assert result_of_trace.exit_code == 2
    assert "none.jsonl" in result_of_trace.stderr


# --- pictures ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["png", "svg", "html"])
def test_pictures(suffix: str, trace: Path, tmp_path: Path) -> None:
    files = [tmp_path / f"{number}.{suffix}" for number in range(2)]
    for file in files:
        result = run(trace, "--policy", "fifo", "--policy", "break-even", "--plot", file)
        assert result.exit_code == 0, result.output
    content = files[0].read_bytes()
    assert content == files[1].read_bytes()
    if suffix == "png":
        assert content.startswith(b"\x89PNG")
        return
    text = content.decode()
    for word in ("fifo", "break-even", "Share of requests that waited longer", "waiting", "limit 60 s", ">a<", ">b<"):
        assert word in text
    if suffix == "html":
        assert text.count("<svg") == text.count("</svg>") == 1
        assert not re.search(r"<script|<link|src=", text)
        assert "<th>sw/1000</th>" in text
        assert "too little traffic" in text


def test_pictures_of_devices_and_many_requests(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        "devices: {gpu0: 2GiB, gpu1: 2GiB}\nmodels:\n"
        + "".join(f"  m{number}: {{{MODEL}, needs: 1GiB}}\n" for number in range(8))
        + f"  <b>: {{{MODEL}}}\n"
    )
    page = tmp_path / "page.html"
    result = run(
        *("-c", config, "--generate", "zipf", "--rate", 2, "--seconds", 2000, "--policy", "fifo", "--no-bound"),
        *("--plot", page),
    )
    assert result.exit_code == 0, result.output
    text = page.read_text()
    assert ">gpu0<" in text
    assert ">gpu1<" in text
    assert "&lt;b&gt;" in text
    assert "<b>" not in text


def test_without_matplotlib_the_error_names_what_to_install(trace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = run(trace, "--plot", "out.png")
    assert result.exit_code == 2
    assert "pip install 'llmux-server[plot]'" in result.stderr


# --- what cannot be done -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: the header lacks arrival_s, model, prompt_tokens, output_tokens"),
        ("arrival_s,model\n", "line 1: the header lacks prompt_tokens, output_tokens"),
        ("arrival_s,model,prompt_tokens,output_tokens\n", "there are no requests in it"),
        ("arrival_s,model,prompt_tokens,output_tokens\n1,a,2,3\nsoon,a,2,3\n", "line 3: could not convert"),
        ("arrival_s,model,prompt_tokens,output_tokens\n1,a,2\n", "line 2: "),
        ("arrival_s,model,prompt_tokens,output_tokens\n-1,a,2,3\n", "line 2: times and token counts"),
        ("\xff", "is not UTF-8 text"),
    ],
)
def test_traces_that_cannot_be_read(text: str, message: str, trace: Path) -> None:
    trace.write_bytes(text.encode("latin-1"))
    result = run(trace)
    assert result.exit_code == 2
    assert f"{trace}: {message}" in result.stderr
    assert result.stdout == ""


def test_a_model_that_is_not_configured_is_named_with_its_line(trace: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(f"models: {{a: {{{MODEL}}}, c: {{{MODEL}}}}}")
    result = run(trace, "-c", config)
    assert result.exit_code == 2
    assert f"{trace}: line 3: model 'b' is not in the configuration" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give one of TRACE.csv, --from-log and --generate"),
        (("missing.csv",), "missing.csv: cannot be read: No such file"),
        (("missing.csv", "--generate", "poisson"), "give one of"),
        (("--from-log", "missing.jsonl", "--models", "2"), "--models goes neither with --from-log"),
        (("-c", "missing.yaml", "--generate", "poisson"), "missing.yaml"),
        ((*SMALL, "--rate", "0"), "--rate must be above 0, not 0"),
        ((*SMALL, "--rate", "nan"), "--rate must be above 0"),
        ((*SMALL, "--rate", "0.000001"), "no requests would come"),
        ((*SMALL, "--cost", "-1"), "--cost must be at least 0"),
        ((*SMALL, "--noise", "-1"), "--noise must be at least 0"),
        ((*SMALL, "--limit", "-1"), "--limit must be at least 0"),
        ((*SMALL, "--tokens", "5"), "--tokens must be two numbers"),
        ((*SMALL, "--policy", "fofi"), "no policy 'fofi': built in are break-even"),
        ((*SMALL, "--policy", "no_such:Policy"), "'no_such:Policy' cannot be imported"),
        ((*SMALL, "--policy", "fifo:max_wait_secs=3"), "policy 'fifo' could not be made"),
        ((*SMALL, "--policy", "break-even:patience=-1"), "patience and linger must be at least 0"),
        ((*SMALL, "--policy", "break-even:patience="), "--policy break-even: 'patience=' is not key=value"),
        ((*SMALL, "--policy", "fifo:min_active_secs=-1"), "min_active_secs cannot be -1"),
        ((*SMALL, "--policy", "fifo:drain_before_switch=1"), "drain_before_switch cannot be 1"),
        ((*SMALL, "--policy", "fifo", "--policy", "fifo"), "fifo would be simulated twice"),
        ((*SMALL, "--sweep", "patience=1"), "--sweep must be policy.KEY=VALUE"),
        ((*SMALL, "--sweep", "policy.patience"), "--sweep must be policy.KEY=VALUE"),
        ((*SMALL, "--sweep", "policy.speed=1,2"), "none of the policies has that option"),
        ((*SMALL, "--policy", "fifo", "--sweep", "break-even.patience=1"), "break-even is not simulated"),
        ((*SMALL, "--sweep", "policy.patience=-1,2"), "patience and linger must be at least 0"),
        ((*SMALL, "--backend", "speed=3"), "--backend: there is no 'speed'"),
        ((*SMALL, "--backend", "batch=0"), "--backend: batch cannot be 0"),
        ((*SMALL, "--backend", "batch=1.5"), "--backend: batch cannot be 1.5"),
        ((*SMALL, "--backend", "rate=fast"), "--backend: rate cannot be 'fast'"),
        ((*SMALL, "--plot", "out.gif"), "the file must end in .png, .svg or .html"),
        ((*SMALL, "--plot", "no/such/folder/out.png"), "there is no folder no/such/folder"),
        ((*SMALL, "--seeds", "0"), "--seeds"),
        ((*SMALL, "--generate", "chaos"), "--generate"),
    ],
)
def test_what_cannot_be_done_is_said(
    arguments: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from secp_spu.bench import (
    SHAPES,
    Case,
    Iteration,
    MpcSetting,
    RecordFile,
    Table,
    activation_cases,
    attention_cases,
    batching_cases,
    batching_tables,
    cosine_cases,
    embedding_cases,
    embedding_tables,
    iteration_cases,
    measure_all,
    network_cases,
    read_records,
    run_cost_cases,
    write_report,
)
from secp_spu.bench.figures import draw_networks, draw_operations, draw_optimizers
from secp_spu.bench.measure_optimizers import Comparison
from secp_spu.bench.parts import attention_part
from secp_spu.bench.published import PAPER, published_tables
from secp_spu.bench.run_cost import run_cost_tables
from secp_spu.bench.scaling import extrapolate, stages
from secp_spu.bench.schema import fault
from secp_spu.cli.app import app
from secp_spu.cli.bench_commands import show
from secp_spu.errors import ConfigError
from secp_spu.inference import pass_bytes
from secp_spu.model.attention.fourier import ANGLE_SCALE
from secp_spu.progress import Progress
from secp_spu.protocol import Scheme, cos_error_bound, joint_error_bound
from secp_spu.protocol.reciprocal import FLOOR

ABY3, SEMI2K, DEALT = MpcSetting("aby3", 3), MpcSetting("semi2k", 2), MpcSetting("semi2k", 2, "dealt")
METHODS = ("sft", "prompt", "fot", "fot-rfa", "fot-fourier", "gradient")
ELEMENTS = 101


def measure(cases):
    """Records, which are all that tables and figures want."""
    records = measure_all(cases, RecordFile(), Progress())
    assert [fault(record) for record in records] == [None] * len(records)
    return records


def iterations(setting, layers, extrapolate):
    return [Iteration(setting, m, "tiny", 8, 1, layers, extrapolate, "gelu_tanh", 16) for m in METHODS]


@pytest.fixture(scope="module")
def tiny():
    """All methods on the tiny shape: in full and scaled from a layer, with the parts of a layer."""
    full = measure(iteration_cases(iterations(SEMI2K, 2, False), Progress(), operations=True))
    scaled = measure(iteration_cases(iterations(SEMI2K, 1, True), Progress(), operations=False))
    return full, scaled


# Records


def test_records_resume_and_are_written_as_they_come(tmp_path):
    path, measured = tmp_path / "deep" / "records.json", []

    def case(number, *, fails=False):
        def run():
            if fails:
                raise KeyboardInterrupt
            measured.append(number)
            return {**evaluation(), "result": number}

        return Case({"bench": "iteration", "variant": "fot-rfa", "n": number}, run)

    with pytest.raises(KeyboardInterrupt):
        measure_all([case(1), case(2, fails=True)], RecordFile(path), Progress())
    assert [record["n"] for record in json.loads(path.read_text())] == [1]
    records = measure_all([case(1), case(2)], RecordFile(path), Progress())
    assert measured == [1, 2]
    assert [record["result"] for record in records] == [1, 2]
    assert {"cores", "secp_spu", "spu"} <= records[0]["machine"].keys()


@pytest.mark.parametrize("content", ["", "{", '{"bench": 1}', "[1]", '[{"variant": "v"}]', '[{"bench": "magic"}]'])
def test_files_of_something_else_are_refused(tmp_path, content):
    (tmp_path / "f.json").write_text(content)
    with pytest.raises(ConfigError, match="f.json"):
        RecordFile(tmp_path / "f.json")


def test_a_folder_is_no_file_of_records(tmp_path):
    with pytest.raises(ConfigError, match=f"--json {tmp_path}: is a folder"):
        RecordFile(tmp_path)


def test_the_documented_records_are_whole():
    for path in sorted((Path(__file__).parents[2] / "docs" / "bench").glob("*.json")):
        assert read_records(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bench": "magic"}, "bench is 'magic', but must be one of accuracy, "),
        ({"bench": []}, r"bench is \[\], but must be one of"),
        ({"variant": "adam"}, "iteration: variant is 'adam'"),
        ({"variant": []}, "iteration: variant is"),
        ({"online": 3}, "iteration: online is 3"),
        ({"online": {}}, "iteration: online.bytes is missing"),
        ({"offline": {"bytes": "1"}}, "iteration: offline.bytes is '1'"),
        ({"offline": {"bytes": float("nan")}}, "iteration: offline.bytes is nan"),
        ({"offline": {"bytes": 10**30}}, "iteration: offline.bytes is 1000"),
        ({"seq_len": 10**400}, "iteration: seq_len is 1000"),
        ({"layers": True}, "iteration: layers is True"),
        ({"model": "../../x"}, "iteration: model is '../../x'"),
        ({"machine": {"cores": []}}, "iteration: machine.cores"),
        ({"bench": "cosine"}, "cosine: elements is missing"),
        ({"bench": "accuracy", "variant": "fot"}, "accuracy: task is missing"),
        ({"bench": "network", "source_bench": "iteration"}, "network: source_variant is missing"),
    ],
)
def test_a_fault_of_a_record_names_its_key(change, message):
    assert fault(evaluation()) is None
    assert re.match(message, fault({**evaluation(), **change}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"validation_loss": [0.5]}, "must be of one length"),
        ({"test_accuracy": []}, "optimizers: test_accuracy"),
        ({"test_accuracy": [[0]]}, "optimizers: test_accuracy.0"),
    ],
)
def test_a_run_has_as_many_losses_as_generations(change, message):
    assert message in fault({**whole_run("cma", 0, [0.9, 0.5]), **change})


def test_sizes_beyond_the_memory_are_refused_before_anything_is_measured(tmp_path):
    measured = []
    small = Case({"n": 1}, lambda: measured.append(1) or evaluation())
    huge = Case({"n": 2}, lambda: measured.append(2) or evaluation(), memory_bytes=10**15)
    with pytest.raises(ConfigError, match="2: takes about 1,000,000 GB of memory, and"):
        measure_all([small, huge], RecordFile(), Progress())
    assert measured == []
    (tmp_path / "f.json").write_text(json.dumps([{**evaluation(), "n": 2}]))
    assert measure_all([huge], RecordFile(tmp_path / "f.json"), Progress())[0]["n"] == 2
    assert measured == []


# Measurements


@pytest.mark.parametrize("setting", [ABY3, DEALT], ids=str)
def test_cosine_records_have_the_protocols_costs(setting):
    records = {record["variant"]: record for record in measure(cosine_cases(setting, ELEMENTS))}
    ours, pair = records["one-opening"], records["spu-cos-sin"]
    assert ours["online"]["bytes"] == 8 * ELEMENTS
    assert ours["online"]["sends"] == 1
    assert pair["online"]["bytes"] > 75 * ours["online"]["bytes"]
    assert ours["offline"]["bytes_total"] == {"aby3": 48, "semi2k": 16}[setting.protocol] * ELEMENTS
    mask_error = joint_error_bound(Scheme(setting.protocol, setting.parties), 18)
    bound = cos_error_bound(8.0, 1 / (2 * np.pi), factor_bits=18, mask_error=mask_error)
    for record in records.values():
        assert 0 < record["max_abs_error"] <= bound


def test_activations_cost_less_the_simpler_they_are():
    records = {r["variant"]: r for r in measure(activation_cases(ABY3, ELEMENTS))}
    exact, tanh, relu, square, series = (
        records[kind]["online"]["bytes"] for kind in ("gelu", "gelu_tanh", "relu", "quadratic", "series")
    )
    assert exact > 4 * tanh > 16 * relu > 3 * 16 * square
    assert square == pytest.approx(52 / 3 * ELEMENTS, abs=8)
    assert series == 8 * ELEMENTS
    assert records["series"]["offline"]["bytes"] == 16 * 5 * ELEMENTS
    assert records["series"]["online"]["sends"] == records["series"]["offline"]["sends"] == 1
    assert all(0 <= r["max_abs_error"] < 0.02 for r in records.values())
    fit = records["series"]
    assert (fit["terms"], fit["range"], fit["fit_error"]) == (5, 8, pytest.approx(2.1e-3, rel=0.01))


@pytest.mark.slow("bytes against length, as the documents claim; six runs under MPC")
def test_attention_is_linear_with_features_and_not_with_softmax():
    config = replace(SHAPES["tiny"], heads=2, width=16)
    records = measure(attention_cases(ABY3, config, [16, 64], [64]))
    kinds = "softmax", "rfa", "fourier"
    softmax, rfa, fourier = ([r["online"]["bytes"] for r in records if r["variant"] == kind] for kind in kinds)
    assert softmax[1] > 12 * softmax[0]
    assert rfa[1] < 4.2 * rfa[0]
    assert fourier[1] < 0.7 * rfa[1]
    assert all(r["max_abs_error"] < 0.05 for r in records)
    assert [r.get("features") for r in records] == [None, 64, 64, None, 64, 64]


@pytest.mark.parametrize(("features", "length"), [(1, 0.6), (4, 0.6), (64, 1.3)])
def test_learned_features_stay_above_the_reciprocals_floor(features, length):
    """Of random queries and keys of length 1.3 some mean kernels of few features are below: errors of 0.9 were seen."""
    config = replace(SHAPES["tiny"], heads=2, width=8, attention="fourier", features=features)
    part = attention_part(config, 1, 8, protocol="aby3", folded=True)
    _, found = part.module.apply({}, *part.inputs, *part.fixed, mutable=["intermediates"])
    assert found["intermediates"]["mean_kernel"][0].min() >= FLOOR
    assert part.inputs[0].std() * 2 * np.pi / ANGLE_SCALE == pytest.approx(length, rel=0.4)


@pytest.mark.slow("the estimate holds for a process's real memory, under MPC")
@pytest.mark.parametrize(("setting", "activation"), [(ABY3, "gelu_tanh"), (SEMI2K, "series")], ids=str)
def test_batches_save_sends_and_stay_below_the_memory_estimate(setting, activation):
    """Up to 64 sequences of 32 tokens, whose share of the noise in a process's memory is small."""
    one = Iteration(setting, "fot-rfa", "tiny", 32, 8, 1, False, activation, 16)
    records = measure(batching_cases(one, [1, 8], Progress()))
    single, eight = (record["online"] for record in records)
    assert eight["bytes"] < 8 * single["bytes"]
    assert eight["sends"] < 2 * single["sends"]  # attention has a product for each sequence and head, all else has one
    for record in records:
        assert record["max_abs_error"] < 0.05
        assert record["estimated_bytes"] == pass_bytes(one.config, 8 * record["candidates"], 32)
    assert records[1]["peak_bytes"] < records[1]["estimated_bytes"] < 6 * records[1]["peak_bytes"]
    assert [row[0] for row in batching_tables(records)[0].rows] == ["1", "8"]


def test_embedding_records_tell_what_privacy_costs():
    one = Iteration(ABY3, "fot-rfa", "tiny", 16, 2, 1, True, "gelu_tanh", 16)
    records = {record["variant"]: record for record in measure(embedding_cases(one, Progress()))}
    tokens, config = 2 * 12, SHAPES["tiny"]
    looked_up = records["texts, private"]["online"]["programs"]
    assert looked_up["look_up"]["bytes_total"] == 24 * tokens * config.width
    # ABY3 gives every party two components of 8 bytes: of one-hot rows, and of a row that tells padding from tokens.
    assert looked_up["share"]["bytes_total"] == 48 * (tokens * config.vocab_size + tokens)
    assert records["texts, data_owner"]["online"]["bytes_total"] == 48 * tokens * config.width
    assert records["prompt, private"]["online"]["programs"]["share"]["bytes_total"] == 48 * 4 * config.width
    assert all(record["max_abs_error"] < 0.05 for record in records.values())
    (table,) = embedding_tables(list(records.values()))
    assert [row[0] for row in table.rows][-1] == "forward pass"


@pytest.mark.slow("one layer measured predicts the whole model; all methods under MPC")
def test_extrapolation_is_within_five_per_cent_of_a_full_run(tiny):
    full, scaled = tiny
    for whole, part in zip(full[: len(METHODS)], scaled, strict=True):
        assert (part["measured_layers"], part["layers"], part["extrapolated"]) == (1, 2, True)
        for phase in ("setup", "offline", "online"):
            for figure in ("bytes", "bytes_total", "sends"):
                assert part[phase][figure] == pytest.approx(whole[phase][figure], rel=0.05), (phase, figure)


@pytest.mark.slow("no byte of an iteration is booked twice or nowhere; needs runs under MPC")
def test_iterations_are_right_and_split_by_stage(tiny):
    for record in tiny[0][: len(METHODS)]:
        assert record["max_abs_error"] < 0.05
        parts = record["stages"]
        assert sum(stage["bytes"] for stage in parts.values()) == pytest.approx(record["online"]["bytes"])
        trains = record["variant"] in ("sft", "prompt")
        assert (parts["optimizer"]["bytes"] > 0) == trains
        assert (parts["backward"]["bytes"] > 0) == (trains or record["variant"] == "gradient")
        assert (record["offline"]["bytes"] > 0) == (record["variant"] in ("fot-rfa", "fot-fourier", "gradient"))


@pytest.mark.slow("operations measured alone cost what they do in a layer; runs under MPC")
def test_the_parts_of_a_layer_add_up_to_it(tiny):
    for method in ("fot", "fot-rfa", "fot-fourier"):
        parts = [r for r in tiny[0] if r["bench"] == "operation" and r["variant"] == method]
        assert [part["operation"] for part in parts][1:] == ["gelu_tanh", "layer norm", "linear"]
        whole = next(r for r in tiny[0] if r["bench"] == "iteration" and r["variant"] == method)
        layers = whole["online"]["programs"]["layer"]["bytes"] / whole["layers"]
        assert sum(part["online"]["bytes"] for part in parts) == pytest.approx(layers, rel=0.02)


def test_extrapolation_scales_what_layers_take_alone():
    line = {"bytes": 10.0, "bytes_total": 20, "sends": 3.0, "seconds": 1.0}
    phase = {**line, "operations": {}, "programs": {"layer": line, "head": line}}
    share = {**line, "operations": {}, "programs": {"share": line}}
    costs = {"setup": share, "offline": {**line, "programs": {"combine": line}}, "online": phase}
    shared = {"bytes": 30.0, "bytes_total": 60, "sends": 9}
    found = extrapolate(costs, layers=4, words=1, shared=shared)
    assert found["online"]["bytes"] == 50
    assert found["offline"]["seconds"] == 4
    assert (found["setup"]["bytes"], found["setup"]["sends"], found["setup"]["seconds"]) == (40, 12, 4)
    assert stages(found)["forward"]["bytes_total"] == 100


# Whole runs


def run_of(optimizer, seed, validation_loss):
    steps = [8 * (i + 1) for i in range(len(validation_loss))]
    key = {"bench": "optimizers", "variant": optimizer, "task": "tiny", "seed": seed}
    return {**key, "evaluations": steps, "validation_loss": validation_loss}


def whole_run(optimizer, seed, validation_loss, budget=16):
    more = {"max_evaluations": budget, "training_loss": validation_loss, "test_accuracy": [[0, 0.5]]}
    return {**run_of(optimizer, seed, validation_loss), **more}


def evaluation():
    line = {"bytes": 1e9, "bytes_total": 3e9, "sends": 5.0, "seconds": 36.0}
    sizes = {"model": "tiny", "seq_len": 8, "batch": 1, "activation": "relu", "layers": 2}
    setting = {"protocol": "aby3", "parties": 3, "correlations": "joint"}
    scaling = {"measured_layers": 2, "extrapolated": False, "max_abs_error": 0.01}
    costs = {"stages": dict.fromkeys(("forward", "backward", "optimizer"), line), "offline": line, "online": line}
    return {"bench": "iteration", "variant": "fot-rfa", **sizes, **setting, **scaling, **costs}


def test_run_cost_is_evaluations_times_the_cost_of_one():
    runs = [run_of("cma", s, [0.9, 0.5, 0.3, 0.2]) for s in (0, 1, 2)]
    runs += [run_of("spsa", 0, [0.9, 0.1]), run_of("spsa", 1, [0.2, 0.2]), run_of("spsa", 2, [0.9, 0.9])]
    runs += [run_of("random", s, [0.9]) for s in (0, 1)]
    cma, spsa, random = records = measure(run_cost_cases([*runs, evaluation()]))
    assert (cma["evaluations"], spsa["evaluations"], random["evaluations"]) == (32, 16, None)
    assert spsa["reached_by"] == 2
    assert spsa["online"]["seconds"] == 16 * 36
    assert spsa["offline"]["bytes_total"] == 16 * 3e9
    (table,) = run_cost_tables(records)
    assert table.rows[1] == ["spsa", "2 of 3", "16", "0.16", "0.32", "0.048", "0.096"]
    assert table.rows[2][2] == "not reached"
    assert "452" in table.rows[3][-1]


@pytest.mark.parametrize("records", [[evaluation()], [run_of("cma", 0, [1.0])], [run_of("spsa", 0, [1.0])]])
def test_run_cost_wants_both_kinds_of_records(records):
    with pytest.raises(ConfigError, match="no records of"):
        list(run_cost_cases(records))


def test_optimizers_are_compared_by_the_real_driver():
    record = Comparison("tiny", "gauss-newton", 0, 24).measure(Progress())
    assert record["evaluations"] == [8, 16, 24]
    assert record["validation_loss"] == sorted(record["validation_loss"], reverse=True)
    assert record["validation_loss"][-1] < 0.9 * record["validation_loss"][0]
    assert record["test_accuracy"][0] == [0, 0.5]
    assert [evaluations for evaluations, _ in record["test_accuracy"]] == [0, 8, 16, 24]


# Report and command line


@pytest.mark.slow("the report takes every kind of record as measured, under MPC")
def test_the_report_has_tables_and_figures(tiny, tmp_path):
    runs = [whole_run("cma", s, [0.9, 0.5]) for s in (0, 1)]
    config = replace(SHAPES["tiny"], heads=2, width=16)
    attention = measure(attention_cases(SEMI2K, config, [8, 16], [8]))
    paths = write_report(
        [*tiny[0], *tiny[1], *attention, *runs, *measure(run_cost_cases([*runs, evaluation()]))], tmp_path
    )
    text = paths[0].read_text()
    for title in ("One iteration of tiny", "One layer of tiny", "Attention of 2 heads", "Optimizers on", "Whole runs"):
        assert f"## {title}" in text
    figures = [path for path in paths if path.suffix == ".png"]
    assert len(figures) >= 4
    for path in figures:
        assert path.stat().st_size > 5_000
        assert f"({path.name})" in text


def test_figures_are_made_of_what_an_interrupted_bench_left():
    """A part of a layer, a method on one network of two, and optimizers with two budgets and other tests on the way."""
    operation = {**evaluation(), "bench": "operation", "operation": "rfa"}
    (figure,) = draw_operations([operation]).values()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["attention", "relu", "layer norm", "linear"]
    lan, wan, _ = measure(network_cases([evaluation()]))
    (figure,) = draw_networks([lan, {**lan, "source_variant": "fot"}, wan]).values()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["FoT, RFA, relu"]
    runs = [whole_run("cma", 0, [0.9, 0.5]), whole_run("cma", 0, [0.9, 0.5, 0.4], 24)]
    runs.append({**whole_run("cma", 1, [0.9, 0.5]), "test_accuracy": [[0, 0.5], [16, 0.6]]})
    assert len(draw_optimizers(runs)["optimizers"].axes) == 4


def test_a_report_removes_the_figures_of_the_one_before_and_nothing_else(tmp_path):
    runs = [whole_run("cma", 0, [0.9, 0.5])]
    (first,) = (path for path in write_report([*runs, evaluation()], tmp_path) if "iteration" in path.name)
    for name in ("iteration-mine.png", "accuracy.png", "attention-plan.png"):
        (tmp_path / name).write_bytes(b"mine")
    report = tmp_path / "report.md"
    report.write_text(report.read_text() + "![notes](notes.png) ![x](attention-plan.png)\n")
    write_report(runs, tmp_path)
    assert not first.exists()
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"report.md", "optimizers.png", "iteration-mine.png", "accuracy.png", "attention-plan.png"}


def test_another_report_is_not_read_for_figures(tmp_path):
    (tmp_path / "report.md").write_text("# Mine\n\n![accuracy](accuracy.png)\n")
    (tmp_path / "accuracy.png").write_bytes(b"mine")
    write_report([evaluation()], tmp_path)
    assert (tmp_path / "accuracy.png").read_bytes() == b"mine"


@pytest.mark.parametrize("columns", [20, 60, 80, 200])
def test_tables_are_whole_in_any_terminal(columns, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(columns))
    names = ["online bytes of a method", "fot-fourier, gelu_tanh *", "[/b] in brackets"]
    table = Table("Title", [names[0], *(f"column {i}" for i in range(9))], [[name, *"123456789"] for name in names[1:]])
    show(Console(), table)
    lines = capsys.readouterr().out.splitlines()
    for row in (table.columns, *table.rows):
        assert any(all(cell in line for cell in row) for line in lines)


@pytest.mark.slow("papers' rows join equal shapes alone; needs real records")
def test_published_figures_stand_beside_ours_of_the_same_shape_alone(tiny):
    assert published_tables(tiny[0]) == []
    ours = {**tiny[0][3], "model": "roberta-large", "seq_len": 512}
    (table,) = published_tables([ours])
    assert [row[0] for row in table.rows[1:]] == [f"paper: {method}" for method in PAPER]
    puma = published_tables([{**tiny[0][2], "model": "bert-large", "seq_len": 128}])[0]
    assert puma.rows[-1][:1] == ["PUMA: bert-large"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["iteration", "--model", "huge"], "--model huge"),
        (["iteration", "--methods", "sft,magic"], "--methods magic"),
        (["iteration", "--layers", "9"], "--layers 9"),
        (["iteration", "--seq-len", "4"], "--seq-len 4"),
        (["iteration", "--seq-len", "32,x"], "32,x"),
        (["iteration", "--activation", "swish"], "--activation swish"),
        (["cosine", "--protocol", "spdz"], "--protocol spdz"),
        (["cosine", "--parties", "4"], "--parties 4"),
        (["attention", "--correlations", "none"], "--correlations none"),
        (["optimizers", "--tasks", "imdb"], "--tasks imdb"),
        (["optimizers", "--optimizers", "adam"], "--optimizers adam"),
        (["optimizers", "--tasks", "sst2"], "--tasks sst2: SECP_SPU_DATA is not set"),
        (["optimizers", "--tasks", "sst2,agnews"], "SECP_SPU_DATA is not set"),
        (["optimizers", "--tasks", "tiny", "--evaluations", "7"], "--evaluations 7: a generation of cma on tiny has 8"),
        (["iteration", "--methods", ","], "--methods ','"),
        (["iteration", "--features", "1000000000"], "GB of memory"),
        (["batching", "--candidates", "1000000000"], "GB of memory"),
        (["embedding", "--batch", "1000000000"], "GB of memory"),
        (["attention", "--heads", "100000000"], "GB of memory"),
        (["attention", "--seq-len", "9" * 13], "from 1 to 10^12"),
        (["cosine", "--elements", "100000000000"], "GB of memory"),
        (["activation", "--elements", "100000000000"], "GB of memory"),
        (["cosine", "--protocol", "semi2k", "--parties", "40"], "--parties 40"),
        (["network", "--records", "x.json", "--protocol", "aby3"], "--protocol is for --check"),
        (["network", "--records", "missing.json"], "missing.json"),
        (["run-cost", "--optimizers", "missing.json", "--iteration", "missing.json"], "missing.json"),
        (["report", "--json", "missing.json", "--out", "x"], "missing.json"),
    ],
)
def test_bad_input_is_named(arguments, message, monkeypatch):
    monkeypatch.delenv("SECP_SPU_DATA", raising=False)
    result = CliRunner().invoke(app, ["bench", *arguments])
    assert isinstance(result.exception, ConfigError)
    assert message in str(result.exception)


@pytest.mark.parametrize(
    "arguments",
    [
        ["report", "--out", "r", "--json"],
        ["network", "--records"],
        ["run-cost", "--iteration", "f.json", "--optimizers"],
    ],
)
def test_records_that_lack_keys_are_named_with_their_file(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("f.json").write_text(json.dumps([evaluation(), {**evaluation(), "online": {"bytes": "many"}}]))
    result = CliRunner().invoke(app, ["bench", *arguments, "f.json"])
    assert isinstance(result.exception, ConfigError)
    assert "f.json is no list of bench records: record 2: iteration: online.bytes is 'many'" in str(result.exception)


def test_names_and_files_count_once(tmp_path):
    path = tmp_path / "records.json"
    path.write_text(json.dumps([evaluation()]))
    files = ["--json", str(path)]
    result = CliRunner().invoke(
        app, ["bench", "report", *files, *files, "--out", str(tmp_path)], catch_exceptions=False
    )
    assert result.exit_code == 0
    assert (tmp_path / "report.md").read_text().count("| fot-rfa, relu |") == 1
    arguments = ["bench", "optimizers", "--tasks", "tiny, tiny", "--optimizers", "random,random", "--evaluations", "8"]
    result = CliRunner().invoke(app, [*arguments, "--seeds", "1"], catch_exceptions=False)
    assert re.search(r"random +1 ", result.stdout)


def test_a_bench_resumes_from_its_file_and_a_report_reads_it(tmp_path):
    path = tmp_path / "records.json"
    arguments = ["bench", "activation", "--protocol", "semi2k", "--elements", "11", "--json", str(path)]
    first = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert "gelu_tanh" in first.stdout
    written = path.read_text()
    CliRunner().invoke(app, [*arguments, "--quiet"], catch_exceptions=False)
    assert path.read_text() == written
    out = CliRunner().invoke(app, ["bench", "report", "--json", str(path), "--out", str(tmp_path / "r")])
    assert out.exit_code == 0
    assert "| gelu_tanh |" in (tmp_path / "r" / "report.md").read_text()

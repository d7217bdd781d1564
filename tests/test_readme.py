"""What README and docs/ show is true: their Python runs, their commands and files exist, their tables are current."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from secp_spu.config import load_config

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

import update_docs  # noqa: E402

PAGES = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in update_docs.pages()}
PAGES |= {name: (ROOT / name).read_text(encoding="utf-8") for name in ("CONTRIBUTING.md", "SECURITY.md")}
README, QUICKSTART, CLUSTER = PAGES["README.md"], PAGES["docs/quickstart.md"], PAGES["docs/cluster.md"]
API = PAGES["docs/api.md"]
SHORT = 'secp_spu.DEMO_CONFIG, settings=["protocol=plaintext", "tuning.generations=2"]'


def found(pattern: str) -> list[str]:
    return sorted({match for page in PAGES.values() for match in re.findall(pattern, page)})


def python(page: str, name: str) -> str:
    (code,) = re.findall(rf"<!-- python: {name} -->\n```python\n(.*?)```", page, re.DOTALL)
    return code


def printed(code: str, folder: Path) -> list[str]:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=folder)
    return done.stdout.splitlines()


@pytest.mark.slow("the comments' outputs are real, some under MPC; a process for each")
@pytest.mark.parametrize("name", ["ledger", "cosine", "config"])
def test_the_library_examples_print_what_their_comments_say(name, tmp_path):
    code = python(API, name)
    expected = re.findall(r"print\(.*\)  # (.+)$", code, re.MULTILINE)
    lines = printed(code, tmp_path)
    assert len(lines) == len(expected) > 0
    for line, comment in zip(lines, expected, strict=True):
        assert comment.startswith(line)


@pytest.mark.slow("README's Python works as it is printed; it tunes and predicts")
def test_the_python_quickstart_tunes_predicts_and_exports(tmp_path):
    code = python(README, "tune")
    short = code.replace("secp_spu.DEMO_CONFIG", SHORT)
    assert short != code
    accuracies, prediction = printed(short, tmp_path)
    before, after = map(float, accuracies.split())
    assert before == 0.5 < after
    assert prediction.split()[0] in ("positive", "negative")
    assert (tmp_path / "runs" / "readme-adapter" / "adapter_config.json").exists()


@pytest.mark.slow("the documented `progress` shows lines as they come; a whole run")
def test_progress_prints_a_line_for_each_generation(tmp_path):
    lines = printed(python(API, "progress"), tmp_path)
    assert [line.split(":")[0] for line in lines] == ["untuned prompt", "generation   1", "generation   2"]


@pytest.mark.slow("the documented audit finds an opening; compiles all programs")
def test_the_audit_shows_the_openings_of_a_layer(tmp_path):
    assert any(line.startswith("layer 2 (") for line in printed(python(API, "audit"), tmp_path))


def test_all_pages_show_the_same_python():
    tunes = {re.sub(r'"runs/[\w-]+"', "", python(page, "tune")) for page in (README, QUICKSTART, API)}
    assert len(tunes) == 1
    assert python(README, "cosine") == python(API, "cosine")


def test_the_api_page_names_everything_that_the_package_exports():
    import secp_spu

    assert [name for name in secp_spu.__all__ if not re.search(rf"\b{name}\b", API)] == []


def test_every_example_has_an_output_of_its_own():
    """Who follows the pages from top to bottom never meets a folder or file that is there already."""
    made = [
        name
        for page in PAGES.values()
        for block in re.findall(r"```[a-z]*\n(.*?)```", page, re.DOTALL)
        for name in re.findall(r"--out ([\w./-]+)|out=\"(.+?)\"|export\(\"(.+?)\"", block)
        for name in name
        if name
    ]
    examples = [name for name in made if not name.isupper()]
    assert len(examples) > 15
    assert [name for name in set(examples) if examples.count(name) > 1] == []


@pytest.mark.parametrize("path", found(r"`((?:configs|requirements|scripts|docs|patches|secp_spu|tests)/[\w./-]+)`"))
def test_every_file_named_is_there(path):
    assert (ROOT / path).exists()


@pytest.mark.parametrize("path", found(r"\]\(((?!http|#)[\w./-]+)"))
def test_every_file_linked_is_there(path):
    assert any((ROOT / folder / path).exists() for folder in ("", "docs"))


def test_the_configurations_shown_are_good(tmp_path):
    (demo,) = re.findall(r"```yaml\n(.*?)```", QUICKSTART, re.DOTALL)
    (cluster,) = re.findall(r"```yaml\n(.*?)```", CLUSTER, re.DOTALL)
    assert demo == (ROOT / "configs" / "demo.yaml").read_text(encoding="utf-8")
    given = yaml.safe_load((ROOT / "configs" / "cluster-aby3.yaml").read_text(encoding="utf-8"))
    shown = tmp_path / "cluster.yaml"
    shown.write_text(yaml.safe_dump(given | yaml.safe_load(cluster)))
    (tmp_path / "tls").mkdir()
    for name in ("ca.pem", "carol.pem", "carol.key"):
        (tmp_path / "tls" / name).touch()
    assert load_config(shown, party="carol").cluster.everyone == ["alice", "bob", "carol"]


def test_the_configuration_for_an_own_model_is_good(tmp_path):
    (own,) = re.findall(r"```yaml\n(.*?)```", PAGES["docs/own-model.md"], re.DOTALL)
    config = tmp_path / "config.yaml"
    config.write_text(own)
    for name in ("clinicalbert-adapted", "pool.jsonl", "test.jsonl"):
        (tmp_path / name).touch()
    assert load_config(config).task.labels == {"readmitted": "sick", "not": "well"}


def test_every_make_target_named_is_there():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = found(r"`make ([a-z0-9-]+)") + found(r"(?m)^make ([a-z-]+)")
    assert {"install", "demo", "lint", "docs", "tables"} <= set(targets)
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_where_to_change_things_is_there():
    (table,) = re.findall(r"## To change X, open Y\n(.*?)\n## ", PAGES["docs/development.md"], re.DOTALL)
    places = re.findall(r"`([a-z_]+(?:/[\w./*]*|\.py))`", table.partition("| --- |")[2])
    assert len(places) > 20
    assert [place for place in places if not list((ROOT / "secp_spu").glob(place))] == []


def test_every_page_is_in_the_navigation():
    entries = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for name in PAGES:
        if name.startswith("docs/"):
            assert f": {name.removeprefix('docs/')}\n" in entries


def test_the_tables_are_what_the_records_say():
    assert [path.name for path, _ in update_docs.stale(update_docs.all_records())] == []


def test_a_table_that_says_something_else_is_noticed():
    page = PAGES["docs/costs.md"].replace("717.3", "700.0")
    assert page != PAGES["docs/costs.md"]
    assert update_docs.current(page, update_docs.all_records()) == PAGES["docs/costs.md"]


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 220

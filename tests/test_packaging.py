"""What is installed, from where, and what an import costs."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

import wsiseg
from wsiseg.run.doctor import _system

ROOT = Path(__file__).resolve().parents[1]
CONDA_NAMES = {"torch": "pytorch", "openslide-bin": "openslide"}
# conda-forge numbers the library itself; the fourth figure of openslide-bin counts the wheel's builds.
CONDA_BOUNDS = {"openslide": ">=4.0.0"}
HEAVY = {"torch", "distributed"}


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    loaded: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    return loaded


def environment_yml() -> list[str]:
    """The entries under ``dependencies``; the file is too plain to need a YAML parser."""
    text = (ROOT / "environment.yml").read_text("utf-8")
    _, _, listed = text.partition("\ndependencies:\n")
    lines = [line.split("#")[0].strip() for line in listed.splitlines()]
    assert all(line.startswith("- ") for line in lines if line)
    return [line[2:].strip() for line in lines if line]


def bounds(requirements: list[str]) -> dict[str, str]:
    parsed = [Requirement(text) for text in requirements]
    return {r.name: ",".join(sorted(str(s) for s in r.specifier)) for r in parsed}


def loaded_by(code: str) -> set[str]:
    """Top-level packages in a fresh interpreter after ``code``."""
    script = f"import sys\n{code}\nprint('LOADED', *{{name.partition('.')[0] for name in sys.modules}})"
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(out.stdout.split("LOADED")[-1].split())


def test_environment_yml_is_in_step_with_pyproject(project: dict[str, Any]) -> None:
    pip = bounds(project["project"]["dependencies"])
    expected = {CONDA_NAMES.get(name, name): bound for name, bound in pip.items()}
    expected.update(CONDA_BOUNDS)
    conda = bounds(environment_yml())
    assert conda.pop("pip") == ""
    assert set(conda.pop("python").split(",")) == set(project["project"]["requires-python"].split(","))
    assert conda == expected


def test_every_dependency_has_a_lower_bound_and_no_upper(project: dict[str, Any]) -> None:
    groups = [project["project"]["dependencies"], *project["project"]["optional-dependencies"].values()]
    others = [text for group in groups for text in group if not text.startswith("wsiseg[")]  # its own extras
    for name, bound in bounds(others).items():
        assert re.fullmatch(r">=[\d.]+", bound), f"{name}{bound}"


def test_version_is_the_same_everywhere(project: dict[str, Any]) -> None:
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["hatch"]["version"]["path"] == "wsiseg/version.py"
    assert metadata.version("wsiseg") == wsiseg.__version__
    assert re.fullmatch(r"\d+\.\d+\.\d+", wsiseg.__version__)


def test_licence_is_there_and_named(project: dict[str, Any]) -> None:
    assert project["project"]["license"] == "Apache-2.0"
    text = (ROOT / "LICENSE").read_text("utf-8")
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text


def test_torch_is_pinned_before_the_project_is_installed(project: dict[str, Any]) -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    (pin,) = re.findall(r"^TORCH := ([\d.]+)$", makefile, flags=re.M)
    (requirement,) = [Requirement(r) for r in project["project"]["dependencies"] if r.startswith("torch>")]
    assert requirement.specifier.contains(pin)
    assert makefile.index("$(PIP) torch==$(TORCH)") < makefile.index("$(PIP) --editable .")


def test_python_versions_agree(project: dict[str, Any]) -> None:
    listed = {
        text.rpartition(" ")[2]
        for text in project["project"]["classifiers"]
        if re.search(r"Python :: 3\.\d+$", text)
    }
    assert listed == {"3.11", "3.12", "3.13"}
    assert project["project"]["requires-python"] == ">=3.11,<3.14"
    assert project["tool"]["ruff"]["target-version"] == "py311"


def test_no_package_under_cli_itself() -> None:
    """With a ``cli/__init__.py`` the editable install and the wheel would disagree about the import path."""
    assert not (ROOT / "cli" / "__init__.py").exists()


def test_console_script_is_installed() -> None:
    (script,) = metadata.entry_points(group="console_scripts", name="wsiseg")
    assert script.value == "wsiseg_cli.main:main"
    assert callable(script.load())


def test_windows_is_told_where_it_runs() -> None:
    script = "import os; os.name = 'nt'; from wsiseg_cli.main import main; main()"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "Expected: Linux or macOS" in ended.stderr
    assert len(ended.stderr.splitlines()) <= 3
    assert not _system("nt", "Windows").ok
    assert "Linux and macOS" in _system("posix", "Linux").text


@pytest.mark.parametrize(
    "module", ["wsiseg", "wsiseg.errors", "wsiseg.core.nuclei", "wsiseg.slide", "wsiseg.testing"]
)
def test_importing_light_modules_is_light(module: str) -> None:
    assert not HEAVY & loaded_by(f"import {module}")


def test_import_wsiseg_loads_no_third_party_package() -> None:
    """The version must be there in no time."""
    bare = loaded_by("")
    assert loaded_by("import wsiseg") - bare == {"wsiseg"}


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["segment", "--help"]])
def test_help_is_light(arguments: list[str]) -> None:
    code = f"""
from wsiseg_cli.main import main
sys.argv = ["wsiseg", *{arguments!r}]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
"""
    loaded = loaded_by(code)
    assert "click" in loaded
    assert not (HEAVY | {"dask", "numpy"}) & loaded


@pytest.mark.slow
def test_wheel_carries_code_weights_and_templates(tmp_path: Path) -> None:
    """Build the wheel as a release would, and compare it with what is under version control."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: there is nothing to compare the wheel with")
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--quiet",
            "--no-deps",
            "--wheel-dir",
            str(tmp_path),
            str(ROOT),
        ],
        check=True,
    )
    (wheel,) = tmp_path.glob("wsiseg-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    listed = subprocess.run(
        ["git", "ls-files", "wsiseg", "cli/wsiseg_cli"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    tracked = {path.removeprefix("cli/") for path in listed}
    assert tracked <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not any(name.startswith(("tests/", "benchmarks/", "cli/")) for name in names)


@pytest.mark.parametrize(
    ("folder", "pattern"), [("wsiseg/models/weights", "*.safetensors"), ("wsiseg/report", "**/*.html*")]
)
def test_package_data_is_not_ignored(project: dict[str, Any], folder: str, pattern: str) -> None:
    """Hatchling leaves out what git ignores: data that is needed at run time must not be among it."""
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == ["wsiseg", "cli/wsiseg_cli"]
    files = sorted((ROOT / folder).glob(pattern))
    assert files, f"no {pattern} in {folder}"
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: nothing can be ignored")
    ignored = subprocess.run(["git", "check-ignore", *map(str, files)], cwd=ROOT, capture_output=True, text=True)
    assert ignored.stdout == ""


def test_contributing_names_registries_contracts_and_suites_that_are_there() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| a")]
    assert len(rows) >= 8
    for row in rows:
        _, _, _, registry, contract, suite, _ = row.split("|")
        name, *path = re.findall(r"`([^`]+)`", registry)
        home = (path or re.findall(r"`([^`]+\.py)`", row))[0]  # "there": in the file itself
        assert name in (ROOT / home).read_text("utf-8"), row
        for said in re.findall(r"`([\w/]+\.py)`", contract):
            assert (ROOT / said).is_file(), row
        for said in re.findall(r"`([\w/.]+)`", suite):
            assert (ROOT / "wsiseg/testing/conformance" / f"{said}.py").is_file() or (ROOT / said).exists(), row

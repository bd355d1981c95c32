"""Profiles of clusters: what wsiseg.toml may say."""

from __future__ import annotations

from pathlib import Path

import pytest

from wsiseg.errors import UsageError
from wsiseg.run.cluster.profile import Profile, read_profile, walltime_s


def test_a_profile_is_found_here_then_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, home = tmp_path / "here", tmp_path / "home"
    (home / ".config" / "wsiseg").mkdir(parents=True)
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", str(home))
    assert read_profile("slurm", None) == Profile()
    (home / ".config" / "wsiseg" / "wsiseg.toml").write_text("[cluster.slurm]\nmaximum = 3\n")
    assert read_profile("slurm", None).maximum == 3
    (here / "wsiseg.toml").write_text('[cluster.slurm]\nmaximum = 4\n[cluster.slurm.options]\nqueue = "gpu"\n')
    assert read_profile("slurm", None) == Profile(maximum=4, options={"queue": "gpu"})
    assert read_profile("pbs", None) == Profile()
    with pytest.raises(UsageError, match=r"no table \[cluster.pbs\]"):
        read_profile("pbs", here / "wsiseg.toml")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[cluster.slurm]\nqueue = 'gpu'", r"no setting queue.*\[cluster.slurm.options\]"),
        ("[cluster.slurm]\nmaximum = 'many'", "maximum: expected"),
        ("[cluster.slurm]\nminimum = 5\nmaximum = 2", "minimum 5, maximum 2"),
        ("[cluster.slurm]\nminimum = 0", "1 ≤ minimum"),
        ("[cluster.slurm]\nmargin = 'soon'", "margin.*10 minutes"),
        ("[cluster.slurm]\npatience = '-1s'", "patience.*10 minutes"),
        ("[cluster]\nslurm = 3", "expected a table"),
        ("[cluster", "as TOML"),
    ],
)
def test_profiles_that_are_none(text: str, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "wsiseg.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=expected):
        read_profile("slurm", path)


@pytest.mark.parametrize(
    ("text", "cluster", "expected"),
    [
        ("02:00:00", "slurm", 7200),
        ("1-12", "slurm", 129_600),
        ("1-00:30", "slurm", 88_200),
        ("90", "slurm", 5400),
        ("10:30", "slurm", 630),
        ("2:00", "lsf", 7200),
        ("90", "lsf", 5400),
        ("3600", "pbs", 3600),
        ("00:30:00", "pbs", 1800),
        ("3600", "sge", 3600),
        ("UNLIMITED", "slurm", None),
    ],
)
def test_walltimes_as_the_batch_systems_write_them(text: str, cluster: str, expected: float | None) -> None:
    assert walltime_s(text, cluster) == expected

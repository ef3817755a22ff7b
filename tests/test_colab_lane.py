"""The Colab lane reads Colab's versions and the setup cell, and sees when a package was changed."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))
import colab_lane


def test_the_versions_are_those_of_the_constraints():
    found = colab_lane.pins()
    assert found["ipywidgets"] == "7.7.1" and found["ipython"].startswith("7.") and len(found) > 10
    assert colab_lane.colab_python() == "3.13"


def test_the_setup_cell_is_run_as_on_colab_with_another_repository_and_folder(tmp_path: Path):
    script = colab_lane.setup_script(tmp_path / "content", tmp_path / "published.git")
    assert f'REPOSITORY = "{(tmp_path / "published.git").as_uri()}"\n' in script
    assert f"!pip install --quiet --editable {tmp_path}/content/course\n" in script
    assert "https://" not in script and '"/content' not in script
    assert script.startswith("import sys, types\n")


def test_the_folder_is_published_as_it_is_now(tmp_path: Path):
    colab_lane.publish(tmp_path / "published.git")
    fetch = ["git", "clone", "--quiet", "--depth", "1", (tmp_path / "published.git").as_uri(), str(tmp_path / "course")]
    subprocess.run(fetch, check=True)
    for path in ("helpers/models.py", "tests/test_colab_lane.py", "data/course_lm/model.safetensors"):
        assert (tmp_path / "course" / path).read_bytes() == (colab_lane.ROOT / path).read_bytes()
    assert not (tmp_path / "course" / ".venv").exists()


def test_only_the_line_of_versions_will_do():
    line = "transformer-lens 4.3.0, transformers 5.15.0, torch 2.11.0+cpu, ipywidgets 7.7.1\n"
    assert re.fullmatch(colab_lane.VERSIONS, line)
    assert not re.fullmatch(colab_lane.VERSIONS, "Restart the runtime!\n" + line) and not re.fullmatch(colab_lane.VERSIONS, "")


def test_changed_and_lost_packages_are_named():
    before = {"numpy": "2.1.3", "torch": "2.11.0", "pandas": "2.2.3"}
    assert colab_lane.changed(before, before | {"jaxtyping": "0.3"}) == []
    after = {"numpy": "2.2.0", "pandas": "2.2.3"}
    assert colab_lane.changed(before, after) == ["numpy was 2.1.3 and is 2.2.0", "torch was 2.11.0 and is gone"]


def test_a_command_that_fails_ends_the_lane(tmp_path: Path):
    with pytest.raises(SystemExit) as ended:
        colab_lane.run(Path(sys.executable), "-c", "import sys; sys.exit(7)")
    assert ended.value.code == 7
    assert colab_lane.run(Path(sys.executable), "-c", "print(5)", quiet=True) == "5\n"


def test_an_environment_that_is_ready_is_not_built_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(colab_lane.subprocess, "run", lambda *given, **more: pytest.fail("it builds again"))
    (tmp_path / "colab-ready").touch()
    assert colab_lane.build(tmp_path).parent.parent == tmp_path

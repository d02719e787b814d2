"""The page of a package index has links that lead somewhere; the release workflow and the container are safe."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from vivit.serve.limits import Limits

from .index_page import LINK, absolute_links, with_urls

ROOT = Path(__file__).parents[2]
HADOLINT = shutil.which("hadolint", path=Path(sys.executable).parent) or shutil.which("hadolint")
REPOSITORY = "https://example.org/owner/vivit"


def test_every_link_of_the_readme_leads_to_a_file_of_the_release():
    before = (ROOT / "README.md").read_text(encoding="utf-8")
    after = absolute_links(before, REPOSITORY, "v0.2.0")
    assert LINK.search(before)
    assert not LINK.search(after)
    files = re.findall(rf"\]\({REPOSITORY}/(?:blob|raw)/v0.2.0/([^)#]+)", after)
    assert len(files) == len(LINK.findall(before))
    assert all((ROOT / name).exists() for name in files)
    assert f"![report.html of the demo: accuracy, curves, and where the model looks]({REPOSITORY}/raw/v0.2.0/" in after
    assert re.sub(rf"{REPOSITORY}/(blob|raw)/v0.2.0/", "", after) == before


def test_the_metadata_of_a_release_have_links_and_stay_valid():
    before = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    after = tomllib.loads(with_urls(before, REPOSITORY, "v0.2.0"))["project"]
    assert after.pop("urls")["Changelog"] == f"{REPOSITORY}/blob/v0.2.0/CHANGELOG.md"
    assert after == tomllib.loads(before)["project"]


def test_the_release_publishes_without_a_password_what_it_has_checked():
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text(encoding="utf-8"))["jobs"]
    steps = [step.get("run", step.get("uses", "")) for step in jobs["build"]["steps"]]
    assert steps.index("python -m build") < steps.index("twine check --strict dist/*")
    assert any(step.startswith("python tests/repo/index_page.py") for step in steps)
    assert jobs["publish"]["permissions"] == {"id-token": "write"}
    assert jobs["publish"]["needs"] == "build"
    assert not re.search(r"password|secrets\.", str(jobs))


@pytest.mark.skipif(HADOLINT is None, reason="no hadolint")
def test_hadolint_has_nothing_to_say_about_the_dockerfile():
    done = subprocess.run([HADOLINT, ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_container_runs_as_a_user_on_a_read_only_file_system_and_is_asked_whether_it_is_well():
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    instructions = re.findall(r"^([A-Z]+) ((?:.*\\\n)*.*)$", lines, flags=re.MULTILINE)
    names = [name for name, _ in instructions]
    assert names[0] == "FROM"
    assert ":latest" not in instructions[0][1]
    user = next(value for name, value in instructions if name == "USER")
    assert user.split(":")[0] not in ("root", "0")
    assert names.index("USER") < names.index("ENTRYPOINT")
    assert "/healthz" in next(value for name, value in instructions if name == "HEALTHCHECK")
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
    [service] = compose["services"].values()
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    assert all(volume.endswith(":ro") for volume in service["volumes"])
    command, limits = service["command"], Limits()
    assert command[0] == "serve"
    named = command.index("--names") + 1
    assert command[named : named + 2] == ["localhost", "127.0.0.1"]  # the port is one of loopback
    body = 1e6 * float(command[command.index("--limits.body-mb") + 1])
    [room] = [re.match(r"/tmp:size=(\d+)g", mount)[1] for mount in service["tmpfs"]]
    assert 2 * (limits.queue + limits.jobs) * body < int(room) * 2**30

"""The wheel and the sdist: real files, one top-level name, no clash with an application's own packages."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from setuptools import find_packages

from simile.core.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "simile"
# Names of packages that applications often have, and that simile's folders have too.
COMMON_NAMES = ("cli", "core", "images", "indexer", "models", "search", "service", "store")
BUILD = "from setuptools import build_meta; import sys; print(build_meta.build_sdist(sys.argv[1]))"


def run(*arguments: str | Path, cwd: Path = ROOT, **environment: str) -> str:
    """Run a command that must succeed; return its standard output."""
    done = subprocess.run(
        [str(argument) for argument in arguments],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel that was built from the sdist, as an installer without the repository builds it."""
    folder = tmp_path_factory.mktemp("dist")
    copy = folder / "checkout"  # a build writes egg-info beside the sources
    copy.mkdir()
    tracked = run("git", "ls-files", "-z").split("\0") if (ROOT / ".git").exists() else []
    if not tracked:
        pytest.skip("the files of the checkout are listed by git")
    for name in filter(None, tracked):
        source, target = ROOT / name, copy / name
        if name.startswith(("tests/", "benchmarks/", "docs/")) or not os.path.lexists(source):
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_symlink():
            target.symlink_to(source.readlink())
        else:
            target.write_bytes(source.read_bytes())
    sdist = folder / run(sys.executable, "-c", BUILD, folder, cwd=copy).split()[-1]
    with tarfile.open(sdist) as archive:
        assert not [member.name for member in archive if member.issym() or member.islnk()]
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--no-deps", "--no-build-isolation")
    run(*pip, "--no-index", "--wheel-dir", folder, sdist, cwd=folder)
    return next(folder.glob("simile-*.whl"))


def test_the_wheel_holds_every_file_of_every_package_under_one_top_level_name(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    top = {name.split("/")[0] for name in names}
    assert top - {"simile"} == {name for name in top if name.endswith(".dist-info")}
    files = {
        "simile/" + (Path(folder) / name).relative_to(SOURCE).as_posix()
        for folder, _, found in os.walk(SOURCE, followlinks=True)
        for name in found
        if "__pycache__" not in folder
    }
    for_developers = {"simile/migrations/script.py.mako"}  # the template of `alembic revision`
    assert {name for name in names if ".dist-info/" not in name} == files - for_developers
    assert {"simile/models/recipes/vae.toml", "simile/service/templates/page.html", "simile/py.typed"} <= names


def test_every_folder_with_modules_is_a_package() -> None:
    found = {
        Path(folder).relative_to(SOURCE).as_posix().replace("/", ".").removeprefix(".")
        for folder, _, names in os.walk(SOURCE, followlinks=True)
        if any(name.endswith(".py") for name in names)
    }
    assert found - {""} == {name.removeprefix("simile.") for name in find_packages(str(ROOT / "src"))} - {"simile"}


@pytest.mark.real_processes
def test_simile_works_beside_an_application_that_has_packages_of_the_same_names(
    wheel: Path, tmp_path: Path, trained_home: Settings, digits: Path
) -> None:
    installed, application = tmp_path / "installed", tmp_path / "application"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
    for name in COMMON_NAMES:
        (application / name).mkdir(parents=True)
        (application / name / "__init__.py").write_text(f"raise ImportError('the package {name} of the application')")
    script = application / "main.py"
    script.write_text(
        "import sys\n"
        "from pathlib import Path\n"
        "import simile\n"
        "if __name__ == '__main__':\n"
        "    settings = simile.load_settings(home=Path(sys.argv[1]), device='cpu', workers=1)\n"
        "    summary = simile.index(settings, [Path(sys.argv[2])], simile.IndexRequest())\n"
        "    image = sorted(Path(sys.argv[2]).iterdir())[0]\n"
        "    with simile.open_home(settings) as home:\n"
        "        hit = home.by_file(image, name=image.name, limit=1).hits[0]\n"
        "    print(simile.__file__, summary.new, hit.path == str(image))\n"
    )
    for image in sorted(digits.iterdir())[12:]:
        image.unlink()
    out = run(sys.executable, script, trained_home.home, digits, cwd=application, PYTHONPATH=str(installed))
    assert out.split() == [str(installed / "simile" / "__init__.py"), "12", "True"]

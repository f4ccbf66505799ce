"""Optional packages: an adapter tells a missing one from one of another version, when it is imported."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from agentref.errors import ConfigurationError, MissingExtraError
from agentref.extras import require

ROOT = Path(__file__).parents[2]
ADAPTERS = {
    "autogen": ("autogen-agentchat", "autogen_agentchat", ["0.6.4", "0.7.4", "0.8.0", "0.8.0.dev1", "1.0"]),
    "ag2": ("ag2", "ag2", ["0.9.9", "1.1.9", "2.0"]),
}


def installed(directory, distribution, version):
    """The metadata that pip leaves, before that of what is installed."""
    info = directory / f"{distribution.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")


def python(code, *paths):
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (*paths, ROOT)))},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_an_adapter_without_its_framework_names_the_extra_and_agentref_does_not_mind(adapter):
    module = ADAPTERS[adapter][1]
    done = python(
        f"import sys; sys.modules[{module!r}] = None\n"
        "import agentref, agentref.adapters, agentref.detection\n"
        "from agentref.errors import MissingExtraError\n"
        "try:\n"
        f"    import agentref.adapters.{adapter}\n"
        "except MissingExtraError as error:\n"
        "    print(isinstance(error, ImportError), error)\n"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("True ") and f"agentref-checkpoint[{adapter}]" in done.stdout


@pytest.mark.parametrize(
    ("adapter", "version"), [(name, version) for name in ADAPTERS for version in ADAPTERS[name][2]]
)
def test_an_adapter_of_another_version_says_which_it_knows(adapter, version, tmp_path):
    installed(tmp_path, ADAPTERS[adapter][0], version)
    done = python(
        "import agentref, agentref.adapters\n"
        "from agentref.errors import ConfigurationError\n"
        "try:\n"
        f"    import agentref.adapters.{adapter}\n"
        "except ConfigurationError as error:\n"
        "    print(error)\n",
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert f"{ADAPTERS[adapter][0]} {version} is installed" in done.stdout and "pip install" in done.stdout


@pytest.mark.parametrize("broken", ["missing", "of another version"])
def test_an_adapter_that_cannot_be_imported_leaves_no_framework_loaded(broken, tmp_path):
    """Or that framework would count as one that is at work in this process."""
    if broken == "missing":
        prepare = "sys.modules['autogen_agentchat'] = None"
    else:
        installed(tmp_path, "autogen-agentchat", "0.6.4")
        prepare = "pass"
    done = python(
        f"import sys; {prepare}\n"
        "import agentref\n"
        "from agentref.errors import ConfigurationError, NoFrameworkDetectedError\n"
        "try:\n"
        "    import agentref.adapters.autogen\n"
        "except ConfigurationError:\n"
        "    print('autogen_core' in sys.modules)\n"
        "try:\n"
        "    agentref.detect_active_framework()\n"
        "except NoFrameworkDetectedError:\n"
        "    print('none')\n",
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["False", "none"]


@pytest.mark.parametrize(
    ("version", "is_known"),
    [
        ("1.2", True),
        ("1.2.0", True),
        ("1.2rc1", True),
        ("1.9.9.post1", True),
        ("1.10", True),
        ("1.1.99", False),
        ("2", False),
        ("2.0a1", False),
        ("unknown", False),
    ],
)
def test_bounds(version, is_known, tmp_path, monkeypatch):
    installed(tmp_path, "some-framework", version)
    (tmp_path / "some_framework.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    wanted = {"extra": "x", "distribution": "some-framework", "module": "some_framework"}
    if is_known:
        require(**wanted, since="1.2", before="2")
    else:
        with pytest.raises(ConfigurationError, match="some-framework"):
            require(**wanted, since="1.2", before="2")


def test_what_pip_did_not_install(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    wanted = {
        "extra": "x",
        "distribution": "a-framework",
        "module": "a_framework",
        "since": "1",
        "before": "2",
    }
    with pytest.raises(MissingExtraError, match=r"agentref-checkpoint\[x\]"):
        require(**wanted)
    (tmp_path / "a_framework.py").touch()
    require(**wanted)

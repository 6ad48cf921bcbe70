"""Folders of results that commands wrote, made once in each process."""

from pathlib import Path

import pytest

from result_folders import run


@pytest.fixture(scope="session")
def whole(
    two_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """The folders of commands that nothing has disturbed."""
    folders = {}
    for command in ("predict", "qc"):
        folders[command] = tmp_path_factory.mktemp("whole") / command
        result = run(command, two_models, folders[command])
        assert result.exit_code == 0, result.stderr
    return folders

"""Which commit documents and bundles name as the one that made them."""

import subprocess
from pathlib import Path

from nodewise import __version__
from nodewise.commit import commit


def test_the_commit_is_that_of_the_code_and_says_if_the_code_was_changed(tmp_path: Path) -> None:
    def git(*words: str) -> str:
        names = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false")
        return subprocess.run(["git", *names, *words], cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    folder = tmp_path / "package"
    folder.mkdir()
    (folder / "code.py").write_text("1\n")
    (tmp_path / "theirs.py").write_text("1\n")
    assert commit(folder) == __version__
    git("init", "-q")
    git("add", "theirs.py")
    git("commit", "-qm", "of somebody else")
    assert commit(folder) == __version__
    git("add", "package/code.py")
    git("commit", "-qm", "ours")
    git("tag", "v9")
    (folder / "notes").write_text("untracked\n")
    head = git("rev-parse", "HEAD").strip()
    assert commit(folder) == head
    (folder / "code.py").write_text("2\n")
    assert commit(folder) == head + "-dirty"

"""The compile cache, the device, memory and the commit."""

import subprocess

import jax
import pytest

from jaxdistill.runtime import compile_cache, profile


@pytest.fixture
def cache_config(monkeypatch):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    before = jax.config.jax_compilation_cache_dir
    yield
    jax.config.update("jax_compilation_cache_dir", before)


def test_compile_cache_is_the_users_or_none(tmp_path, monkeypatch, cache_config):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = compile_cache.enable_compile_cache()
    assert path is not None and path.is_dir() and path.parent == tmp_path / "jaxdistill" / "compile"
    assert jax.config.jax_compilation_cache_dir == str(path)
    (tmp_path / "file").write_text("")
    said = []
    assert compile_cache.enable_compile_cache(tmp_path / "file" / "cache", say=said.append) is None
    assert len(said) == 1 and "not writable" in said[0]
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "theirs"))
    assert compile_cache.enable_compile_cache(tmp_path / "mine") == tmp_path / "theirs"
    assert not (tmp_path / "mine").exists()


def test_profile():
    assert jax.devices()[0].platform in profile.device_description().lower()
    commit = profile.environment()["commit"]
    assert commit is None or len(commit.removesuffix("-dirty")) == 40


def test_commit_is_the_checkouts_own(tmp_path, monkeypatch):
    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True)

    package = tmp_path / "jaxdistill"
    package.mkdir()
    (package / "a.py").write_text("")
    monkeypatch.setattr(profile, "__file__", str(package / "runtime" / "profile.py"))
    assert profile.git_commit() is None
    try:
        git("init")
    except OSError:
        pytest.skip("git is not installed")
    git("add", ".")
    git("commit", "-m", "a")
    commit = profile.git_commit()
    assert commit is not None and len(commit) == 40
    (package / "a.py").write_text("changed")
    assert profile.git_commit() == f"{commit}-dirty"
    installed = package / "site-packages" / "jaxdistill" / "runtime" / "profile.py"
    monkeypatch.setattr(profile, "__file__", str(installed))
    assert profile.git_commit() is None

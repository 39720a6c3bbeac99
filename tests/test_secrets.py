"""No password, key or token stands in a file that Git keeps; what is found is told by file and line, masked."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SECRET = re.compile(
    r"""-----BEGIN\ [A-Z ]*PRIVATE\ KEY-----
    | \b(?:AKIA|ASIA)[0-9A-Z]{16}\b                                  # Amazon
    | \bAIza[\w-]{35}                                                # Google
    | \b(?:gh[pousr]_[A-Za-z0-9]{36}|github_pat_\w{22,}|glpat-[\w-]{20}|hf_[A-Za-z0-9]{30,}|xox[abprs]-[\w-]{10,})
    | AccountKey=[A-Za-z0-9+/=]{40,}                                 # Azure
    | \b[a-z][a-z0-9+.-]*://[^/\s:@'"{}<>]+:[^/\s@'"{}<>]+@          # user:password@host
    | \b(?:secret\w*|password|passwd|token|api_?key|connection_string|sas_token)["']?\s*[=:]\s*["']?[\w+/.~-]{8,}
    """,
    re.VERBOSE | re.IGNORECASE,
)


def find_secrets(name: str, text: str) -> Iterator[str]:
    """FILE:LINE and the first four characters of each value that looks like a secret."""
    for number, line in enumerate(text.splitlines(), 1):
        for found in SECRET.finditer(line):
            yield f"{name}:{number}: {found[0][:4]}***"


def test_no_secret_is_tracked() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    names = [name for name in listed.split("\0") if name and (ROOT / name).is_file()]
    assert ".dvc/config" in names
    found = [
        secret
        for name in names
        if name != "tests/test_secrets.py"
        for secret in find_secrets(name, (ROOT / name).read_text(encoding="utf-8", errors="replace"))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "line",
    [
        "    secret_access_key = wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY",
        "    access_key_id = AKIAIOSFODNN7EXAMPLE",
        "    url = https://someone:hunter2hunter2@example.org/data",
        "    password = correct-horse-battery",
        "token: ghp_0123456789abcdefghijABCDEFGHIJ012345",
        "connection_string = DefaultEndpointsProtocol=https;AccountKey=" + "a" * 44,
        "-----BEGIN OPENSSH PRIVATE KEY-----",
    ],
)
def test_what_looks_like_a_secret_is_found_and_masked(line: str) -> None:
    found = list(find_secrets(".dvc/config", f"[core]\n{line}\n"))
    assert found
    assert found[0].startswith(".dvc/config:2: ")
    assert not any(word in found[0] for word in re.findall(r"\w{8,}", line.split("=", 1)[-1]))


@pytest.mark.parametrize(
    "line", ["url = s3://bucket/data", "tokens are words", "https://example.org:8080/x", "password = null", "secret ="]
)
def test_what_is_no_secret_is_left_alone(line: str) -> None:
    assert not list(find_secrets("params.yaml", line))

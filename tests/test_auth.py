"""serving.auth: who may ask, how often, and that keys stay secret."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from base64 import b64encode
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from serving.auth import Access, Auth, Key, Keys, main
from serving.gateway import Refusal

KEY, OTHER = "a1" * 32, "b2" * 32


def line(name: str, key: str, suffix: str = "") -> str:
    return f"{name}:{sha256(key.encode()).hexdigest()}{suffix}"


def basic(user_and_password: str, *, scheme: bytes = b"Basic") -> bytes:
    return scheme + b" " + b64encode(user_and_password.encode())


def ask(auth: Auth, path: str = "/predict", **scope: Any) -> str | None:
    """The key's name that the routes see; raises Refusal."""
    request: Scope = {
        "type": "http",
        "path": path,
        "query_string": b"",
        "headers": [(b"host", b"localhost:3000")],
        "client": ("127.0.0.1", 1),
        **scope,
    }
    asyncio.run(auth(request, None, None))  # type: ignore[arg-type]
    name: str | None = request.get("state", {}).get("key_name")
    return name


async def reached(scope: Scope, receive: Receive, send: Send) -> None:
    """A route that is content to be reached."""


def guarded(text: str = "", **keywords: Any) -> Auth:
    return Auth(reached, access=Access(Keys(text=text)), **keywords)


@pytest.mark.parametrize(
    "request_",
    [
        {"headers": [(b"authorization", b"Bearer " + KEY.encode())]},
        {"headers": [(b"authorization", b"bearer  " + KEY.encode())]},
        {"headers": [(b"x-api-key", KEY.encode())]},
        {"headers": [(b"api-key", KEY.encode())]},
        {"headers": [(b"ocp-apim-subscription-key", KEY.encode())]},
        {"query_string": b"alt=json&key=" + KEY.encode()},
        {"headers": [(b"authorization", b"Bearer unused"), (b"x-api-key", KEY.encode())]},
        {"headers": [(b"authorization", basic(f"label-studio:{KEY}"))]},
        {"headers": [(b"authorization", basic(f":{KEY}", scheme=b"basic"))]},
    ],
)
def test_a_key_is_found_wherever_a_client_puts_it(request_: dict[str, Any]) -> None:
    assert ask(guarded(f"{line('first', OTHER)},{line('second', KEY)}"), **request_) == "second"


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"x-api-key", OTHER.encode())],
        [(b"x-api-key", KEY[:-1].encode())],
        [(b"x-api-key", sha256(KEY.encode()).hexdigest().encode())],
        [(b"authorization", b"Basic " + KEY.encode())],
        [(b"authorization", basic(f"label-studio:{OTHER}"))],
        [(b"authorization", basic(f"{KEY}:"))],
        [(b"authorization", basic(KEY))],
        [(b"authorization", b"Basic \xff")],
        [(b"authorization", b"Basic")],
        [(b"x-api-key", b"\xff\xfe")],
    ],
)
def test_anything_else_is_refused_even_from_this_machine(headers: Any) -> None:
    """The stored hash among it: who reads the file of keys cannot use it."""
    with pytest.raises(Refusal) as caught:
        ask(guarded(line("only", KEY)), headers=headers)
    assert caught.value.status == 401 and KEY[:-1] not in caught.value.message


def test_a_short_key_opens_nothing_though_its_hash_is_stored() -> None:
    with pytest.raises(Refusal):
        ask(guarded(line("weak", "perroquet")), headers=[(b"x-api-key", b"perroquet")])


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/healthz"])
def test_health_needs_no_key(path: str) -> None:
    assert ask(guarded(line("only", KEY)), path, client=("203.0.113.9", 1)) is None


def test_metrics_need_a_key_unless_they_are_open() -> None:
    with pytest.raises(Refusal):
        ask(guarded(line("only", KEY)), "/metrics")
    ask(Auth(reached, access=Access(Keys(text=line("only", KEY)), metrics_open=True)), "/metrics")


@pytest.mark.parametrize("keys", ["", line("only", KEY)])
def test_where_signatures_are_checked_no_key_is_needed(keys: str) -> None:
    """There alone, from anywhere: whoever signs sends no key. Its route refuses what is not signed."""
    access = Access.from_environment({"VIGIE_CORAL_SECRETS": "x", "VIGIE_API_KEYS": keys})
    auth, stranger = Auth(reached, access=access), ("203.0.113.9", 1)
    assert ask(auth, "/coral/moderate", client=stranger) is None
    for path in ("/coral/", "/coral/moderate/", "/predict", "/"):
        with pytest.raises(Refusal):
            ask(auth, path, client=stranger)


@pytest.mark.parametrize("environment", [{}, {"VIGIE_CORAL_SECRETS": "", "VIGIE_CORAL_SECRETS_FILE": ""}])
def test_without_secrets_nothing_is_open(environment: dict[str, str]) -> None:
    assert Access.from_environment(environment).signed == frozenset()
    assert Access.from_environment({**environment, "VIGIE_CORAL_SECRETS_FILE": "x"}).signed == {"/coral/moderate"}


@pytest.mark.parametrize("client", [("127.0.0.1", 1), ("127.8.8.8", 1), ("::1", 1), ("::ffff:127.0.0.1", 1)])
@pytest.mark.parametrize("host", [b"localhost:3000", b"127.0.0.1", b"[::1]:3000"])
def test_without_keys_this_machine_is_answered(client: Any, host: bytes) -> None:
    ask(Auth(reached, access=Access()), client=client, headers=[(b"host", host)])


@pytest.mark.parametrize(
    "request_",
    [
        {"client": ("203.0.113.9", 1)},
        {"client": ("10.0.0.1", 1)},
        {"client": None},
        {"headers": [(b"host", b"localhost"), (b"x-forwarded-for", b"203.0.113.9")]},
        {"headers": [(b"host", b"evil.example")]},
        {"headers": [(b"host", b"[")]},
        {"headers": []},
    ],
)
def test_without_keys_others_are_refused(request_: dict[str, Any]) -> None:
    """So are requests through a proxy, and those of a web page whose name was made to lead to this machine."""
    with pytest.raises(Refusal) as caught:
        ask(Auth(reached, access=Access()), **request_)
    assert caught.value.status == 403 and "VIGIE_API_KEYS_FILE" in caught.value.message


def test_anyone_is_answered_where_a_proxy_checks() -> None:
    ask(Auth(reached, access=Access(anyone=True)), client=("203.0.113.9", 1))


def test_a_key_has_its_rate_and_gets_it_back_with_time() -> None:
    """Three a minute: the fourth waits for 20 s, a third of the minute."""
    now = [100.0]
    auth = guarded(line("slow", KEY, ":3"), clock=lambda: now[0])
    asks = {"headers": [(b"x-api-key", KEY.encode())]}
    assert [ask(auth, **asks) for _ in range(3)] == ["slow"] * 3
    with pytest.raises(Refusal) as caught:
        ask(auth, **asks)
    assert (caught.value.status, caught.value.retry_after_s) == (429, 20)
    now[0] += 20
    assert ask(auth, **asks) == "slow"
    now[0] += 3600
    assert [ask(auth, **asks) for _ in range(3)] == ["slow"] * 3
    with pytest.raises(Refusal):
        ask(auth, **asks)


def test_a_key_without_rate_is_never_held_up() -> None:
    key = Key("free", b"")
    assert {key.spend(0.0) for _ in range(1000)} == {None}


class Follower:
    """Keys of a file under a clock that the test turns."""

    def __init__(self, path: Path, text: str) -> None:
        self.path, self.now = path, 0.0
        path.write_text(text, encoding="utf-8")
        self.keys = Keys(file=path, clock=lambda: self.now)

    def write(self, text: str, *, after_s: float) -> None:
        self.path.write_text(text, encoding="utf-8")
        # The clock of the file system may be too coarse for two writes in a row.
        status = self.path.stat()
        os.utime(self.path, ns=(status.st_atime_ns, status.st_mtime_ns + int((self.now + 1) * 10**9)))
        self.now += after_s

    def names(self) -> tuple[str, ...]:
        self.keys.find(KEY)
        return self.keys.names


def test_a_changed_file_counts_without_a_restart_and_is_looked_at_once_a_second(tmp_path: Path) -> None:
    follower = Follower(tmp_path / "keys", f"# moderation\n\n{line('old', KEY)}  # until June\n")
    assert follower.names() == ("old",)
    follower.write(line("new", OTHER), after_s=0.9)
    assert follower.names() == ("old",)
    follower.now += 0.2
    assert follower.names() == ("new",) and follower.keys.find(KEY) is None and follower.keys.find(OTHER)


@pytest.mark.parametrize("broken", ["perroquet-bleu-7413", "", f"{line('a', KEY)}\n{line('a', OTHER)}"])
def test_a_broken_file_changes_nothing_and_its_content_stays_out_of_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, broken: str
) -> None:
    follower = Follower(tmp_path / "keys", line("old", KEY))
    with caplog.at_level(logging.DEBUG):
        follower.write(broken, after_s=2)
        assert follower.names() == ("old",)
    assert "the API keys stay as they were" in caplog.text
    assert "perroquet" not in caplog.text and sha256(KEY.encode()).hexdigest() not in caplog.text
    follower.write(line("new", KEY), after_s=2)
    assert follower.names() == ("new",)


def test_a_file_that_goes_away_changes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    follower = Follower(tmp_path / "keys", line("old", KEY))
    follower.path.unlink()
    follower.now += 2
    assert follower.names() == ("old",) and "cannot be read" in caplog.text


def test_a_reread_file_refills_no_rate(tmp_path: Path) -> None:
    follower = Follower(tmp_path / "keys", line("slow", KEY, ":1"))
    key = follower.keys.find(KEY)
    assert key is not None and key.spend(0.0) is None
    follower.write(line("slow", KEY, ":1") + "\n" + line("more", OTHER), after_s=2)
    assert follower.names() == ("slow", "more") and follower.keys.find(KEY) is key


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"VIGIE_API_KEYS": "perroquet"}, "VIGIE_API_KEYS: entry 1 is not of the form name:sha256"),
        ({"VIGIE_API_KEYS": line("a", KEY) + "," + line("b", KEY)}, "a name or a key stands twice"),
        ({"VIGIE_API_KEYS": line("a", KEY, ":0")}, "entry 1 is not of the form"),
        ({"VIGIE_API_KEYS_FILE": "/nowhere/keys"}, "/nowhere/keys cannot be read"),
        ({"VIGIE_API_KEYS": " , "}, "no API key given"),
        ({"VIGIE_NO_AUTH": "1", "VIGIE_API_KEYS": line("a", KEY)}, "contradict each other"),
        ({"VIGIE_NO_AUTH": "yes"}, "VIGIE_NO_AUTH must be 1 or 0"),
    ],
)
def test_a_setting_that_would_open_or_close_by_mistake_is_told(environment: dict[str, str], expected: str) -> None:
    with pytest.raises(ValueError, match=expected) as caught:
        Access.from_environment(environment)
    assert "perroquet" not in str(caught.value)


def test_keys_come_from_the_variable_and_the_file_together(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(line("b", OTHER), encoding="utf-8")
    access = Access.from_environment(
        {"VIGIE_API_KEYS": line("a", KEY), "VIGIE_API_KEYS_FILE": str(tmp_path / "keys"), "VIGIE_METRICS_OPEN": "1"}
    )
    assert access.keys is not None and access.keys.names == ("a", "b")
    assert (access.anyone, access.metrics_open) == (False, True)
    assert Access.from_environment({}) == Access()


def run_main(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["serving.auth", *arguments])
    return main()


def test_a_made_key_opens_with_the_line_to_store(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(monkeypatch, "moderation", "--per-minute", "30") == 0
    _, key, _, _, stored = capsys.readouterr().out.splitlines()
    assert len(key) == 64 and key not in stored
    assert ask(guarded(stored), headers=[(b"x-api-key", key.encode())]) == "moderation"
    assert stored.endswith(":30")


@pytest.mark.parametrize("arguments", [("deux mots",), ("a:b",), ("a", "--per-minute", "0")])
def test_a_name_or_rate_that_cannot_be_stored_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    assert run_main(monkeypatch, *arguments) == 2
    printed = capsys.readouterr()
    assert "NAME is 1 to 64 letters" in printed.err and not printed.out

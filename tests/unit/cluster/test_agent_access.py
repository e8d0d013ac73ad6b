"""What operator and agents know each other by: always the same for a run, and another for every other."""

import pytest
from trainyard_operator.cluster.agent_access import AgentAccess, agent_url

KEY = b"0123456789abcdef"


def test_token_and_certificate_are_the_runs_own_and_the_same_for_every_operator_with_this_key() -> None:
    runs = [AgentAccess(KEY).secret(uid, tls=True) for uid in ("one", "one", "other")]
    runs.append(AgentAccess(b"another key of the same sort").secret("one", tls=True))
    assert runs[0] == runs[1]
    for file in ("token", "tls.pem"):
        assert len({run[file] for run in runs}) == 3
    assert AgentAccess(KEY).secret("one", tls=False) == {"token": runs[0]["token"]}


WHERE = {
    "plain": ("10.0.0.7", {}, "http://10.0.0.7:9400"),
    "with TLS": ("10.0.0.7", {"trainyard.dev/tls": "true"}, "https://10.0.0.7:9400"),
    "where TLS is off": ("10.0.0.7", {"trainyard.dev/tls": "false"}, "http://10.0.0.7:9400"),
    "by IPv6": ("fd00::7", {"trainyard.dev/tls": "true"}, "https://[fd00::7]:9400"),
}


@pytest.mark.parametrize(("address", "labels", "url"), WHERE.values(), ids=WHERE)
def test_an_agent_answers_at_its_pods_address(address: str, labels: dict[str, str], url: str) -> None:
    assert agent_url({"metadata": {"labels": labels}, "status": {"podIP": address}}) == url

"""What the annotators' page says, and whom it lets in."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ServerSettings:
    """What the page says and whom it lets in."""

    title: str = "Comparisons"
    question: str = "Which response is better?"
    guidelines: str = ""
    """Plain text: paragraphs, and lists of lines that begin with `- `."""
    lease_seconds: float = 1800.0
    """For which a comparison that was shown to someone is kept for them."""
    votes_per_minute: int = 60
    """Of one annotator. Three times as many pages."""
    oidc_header: str = ""
    """In which a proxy that has authenticated the annotator names them; empty: links alone let people in."""
    proxies: tuple[str, ...] = ("127.0.0.0/8", "::1/128")
    """Networks whose word in `oidc_header` is taken; the default is a sidecar's."""
    https: bool = False
    """Whether annotators reach the page by HTTPS, so that cookies are sent by nothing else."""

"""What a user may say of collecting comparisons from people."""

from typing import Annotated, ClassVar

from pydantic import Field, StringConstraints

from .fields import StageName
from .model import Model, rule

COLLECT_PORT = 9410
"""Where the annotators' page is served, in the stage's pod."""
Line = Annotated[str, StringConstraints(min_length=1, max_length=200)]
FilePath = Annotated[str, StringConstraints(min_length=1, max_length=1024)]


class DrawSettings(Model):
    """Responses for people to compare, drawn from models of earlier stages."""

    prompts: FilePath
    """JSONL: `prompt`, a text, or `messages`, the turns before the response. Relative paths start at the storage root."""
    models: Annotated[list[StageName], Field(min_length=1, max_length=8)]
    """The stages that trained them, all with one tokenizer or with several."""
    responses: Annotated[int, Field(ge=2, le=9)] = 2
    """To each prompt, of all models in turn."""
    temperatures: Annotated[list[Annotated[float, Field(gt=0, le=10)]], Field(min_length=1, max_length=8)] = [1.0]
    """Of a prompt's first response, its second, …; from the first again where there are fewer."""
    max_new_tokens: Annotated[int, Field(ge=1, le=4096)] = 128
    """Tokens of a response, at most."""


class IngressSettings(Model):
    """Where people reach the page of a run on Kubernetes, if not by `trainyard collect open`."""

    host: Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=253)]
    """The name that leads to the cluster's ingress controller, for this page alone."""
    class_name: Annotated[str, StringConstraints(max_length=253)] = ""
    """The ingress class; if empty, the cluster's default one."""
    tls_secret: Annotated[str, StringConstraints(max_length=253)] = ""
    """The Secret that has the host's certificate (type kubernetes.io/tls); if empty, the page is reached by plain HTTP, or
    with what the controller has by itself."""
    annotations: Annotated[dict[str, Annotated[str, StringConstraints(max_length=1024)]], Field(max_length=32)] = {}
    """For the controller, or for cert-manager."""

    @property
    def url(self) -> str:
        """The page's address."""
        return f"{'https' if self.tls_secret else 'http'}://{self.host}"


class CollectStage(Model):
    """Have people compare responses on a web page until enough is judged; the run waits for them, and goes on by itself."""

    draw: DrawSettings | None = None
    comparisons: FilePath | None = None
    """Instead: comparisons that were made elsewhere, JSONL with `prompt`, `chosen` and `rejected`, taken in as they are."""
    overlap: Annotated[int, Field(ge=1, le=100)] = 1
    """People who judge each item."""
    repeats: Annotated[float, Field(ge=0, le=0.5)] = 0.05
    """The share of judgements that is asked again, blindly, to see whether people agree with themselves."""
    title: Line = "Comparisons"
    """What the page is called."""
    question: Line = "Which response is better?"
    """What it asks of each."""
    guidelines: Annotated[str, StringConstraints(max_length=20_000)] = ""
    """Plain text: paragraphs, and lists of lines that begin with `- `."""
    votes_per_minute: Annotated[int, Field(ge=1, le=100_000)] = 60
    """Of one annotator, at most."""
    oidc_header: Annotated[str, StringConstraints(max_length=100)] = ""
    """The header in which a proxy that has authenticated an annotator names them; if empty, links alone let people in."""
    https: bool = False
    """Whether people reach the page by HTTPS alone."""
    ingress: IngressSettings | None = None
    """On Kubernetes: an Ingress to the page, made and deleted with the run. The page has a Service without it too."""

    rules: ClassVar = (
        rule(
            "has(self.draw) != has(self.comparisons)",
            lambda it: (it.draw is None) != (it.comparisons is None),
            "give exactly one of draw and comparisons",
        ),
    )
